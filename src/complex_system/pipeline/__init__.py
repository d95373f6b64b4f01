"""The declared pipeline: one definition for one record and for a million."""
