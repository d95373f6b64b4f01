"""Where records come from, beside the dummy data: files."""
