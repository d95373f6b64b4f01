"""Read the input of requests, in any format, into batches. Nothing here knows HTTP or models."""
