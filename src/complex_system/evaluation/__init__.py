"""Decides: when a training round is due, which model is best, and whether it beats a baseline. No broker; MLflow only as a log."""
