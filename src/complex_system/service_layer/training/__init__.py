"""The trainer services."""
