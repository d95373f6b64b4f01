"""``fiot run``: a deployment as local processes, with the servers that it needs and does not find."""
