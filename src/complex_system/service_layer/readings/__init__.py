"""Sources of single readings: what they read becomes FastIoT Things in a stream of the broker."""
