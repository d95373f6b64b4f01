"""The database service on MongoDB."""
