"""The declared pipeline: features from raw records, one definition for one record and for a million. No I/O here."""
