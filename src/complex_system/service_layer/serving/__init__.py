"""The serving services: engine and REST joined with the broker. What works without a broker is in ``complex_system.serving``."""
