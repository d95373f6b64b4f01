"""Logs trainings and keeps models: MLflow, Weights & Biases, and a plain directory. No broker; nothing is trained here."""
