"""One module a view: its parts, and how they are filled from a reading."""
