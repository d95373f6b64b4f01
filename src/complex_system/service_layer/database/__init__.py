"""The database services over the broker: requests in, pages and counts out. What a database does is in ``complex_system.storage``."""
