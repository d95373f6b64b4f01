"""The store on MariaDB."""
