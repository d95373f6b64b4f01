"""The database services."""
