"""Trains the blueprint's network with PyTorch and logs it to Weights & Biases, and to MLflow."""
