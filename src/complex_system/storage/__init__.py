"""Keeps records and documents: two databases behind one interface. Nothing here knows of the broker or of a service."""
