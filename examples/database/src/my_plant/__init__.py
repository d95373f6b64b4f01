"""What this plant needs beyond complex-system."""
