"""Sources of records: files, and the lab's scenarios. Nothing here speaks to the broker or a database."""
