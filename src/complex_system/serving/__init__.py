"""Answers requests for predictions: models from a source, an engine, REST. No training framework and no broker is imported here."""
