"""Training rounds."""
