"""Trains gradient boosted trees with LightGBM and registers them in MLflow."""
