"""What is measured of machines, data and models."""
