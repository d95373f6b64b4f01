"""Fits models: the trainers of the three frameworks behind one interface, their data, and cross-validation. No broker, no MLflow."""
