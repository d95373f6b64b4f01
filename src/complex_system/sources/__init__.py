"""Sources of records: files, folders, SQL tables, and the lab's scenarios. Nothing here speaks to the broker."""
