"""A simulated plant for ``fiot run --scenario plant``: a press with an OPC UA server, devices and a laboratory that speak MQTT."""
