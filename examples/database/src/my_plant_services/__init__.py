"""The services of this plant's own."""
