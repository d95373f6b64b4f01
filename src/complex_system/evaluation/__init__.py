"""Decides: when a round is due, which model is best, whether it beats a baseline. No broker; models and log are in MLflow."""
