"""``fiot run``: a deployment as local processes, with the servers that it needs and that run nowhere else.

It asks the services over NATS and REST, as any client does. Only commands (``cli``, ``backup``, ``predict``) import it.
"""
