"""Where runs and models are kept: MLflow, Weights & Biases, and a plain directory."""
