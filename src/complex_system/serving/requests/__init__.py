"""What a request asks predictions for."""
