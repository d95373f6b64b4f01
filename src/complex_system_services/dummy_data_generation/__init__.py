"""Makes lab records and has them saved."""
