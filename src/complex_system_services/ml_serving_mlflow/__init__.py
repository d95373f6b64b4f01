"""Serves the champion of the MLflow registry."""
