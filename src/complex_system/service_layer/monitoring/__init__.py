"""Connects monitoring with broker, database and MLflow: alerts, the kept history, the reference. No rules and no figures."""
