"""The serving services."""
