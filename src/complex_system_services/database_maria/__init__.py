"""The database service on MariaDB."""
