"""Trains an ensemble on piecewise-linear encodings with PyTorch and registers it in MLflow."""
