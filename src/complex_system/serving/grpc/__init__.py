"""The Open Inference Protocol over gRPC; off unless a port is set."""
