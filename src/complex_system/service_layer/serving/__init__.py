"""The serving services: the engine and REST joined with the broker's subjects and events. What works without a broker is in ``serving``."""
