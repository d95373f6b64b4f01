"""OPC UA: the variables of a PLC or a machine as readings of sensors."""
