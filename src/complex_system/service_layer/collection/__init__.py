"""Connects the collection of readings with stream, database and serving; no windows and no subjects."""
