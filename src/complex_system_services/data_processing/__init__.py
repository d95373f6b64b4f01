"""Processes raw records with the declared pipeline: those in the database, and those of a request."""
