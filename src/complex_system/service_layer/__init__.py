"""Wiring that several services share: what is alike in all databases, trainers and serving services."""
