"""Services of our own."""
