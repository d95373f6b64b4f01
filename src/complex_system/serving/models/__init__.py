"""Models to serve: their sources, and the slots that hold them."""
