"""The REST protocols: ours, the Open Inference Protocol, MLflow's scoring. What they answer with comes from the engine."""
