"""How models are judged: training rounds, their comparison on the hold-out part, and what is kept of it in MLflow."""
