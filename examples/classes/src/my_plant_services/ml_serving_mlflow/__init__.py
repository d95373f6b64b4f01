"""Trains gradient boosted trees with scikit-learn and registers them in MLflow."""
