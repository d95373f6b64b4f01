"""The REST protocols."""
