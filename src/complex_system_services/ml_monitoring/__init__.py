"""ml_monitoring: watches the host, the served predictions and their inputs, and logs it to MLflow."""
