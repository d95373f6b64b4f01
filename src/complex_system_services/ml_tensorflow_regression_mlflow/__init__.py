"""Trains a network with TensorFlow and registers it in MLflow."""
