"""Serves the newest Weights & Biases artifact."""
