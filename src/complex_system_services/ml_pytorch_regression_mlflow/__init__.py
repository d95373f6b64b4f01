"""Trains the blueprint's network with PyTorch and registers it in MLflow."""
