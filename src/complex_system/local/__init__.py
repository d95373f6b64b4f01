"""``fiot run``: a deployment as local processes, with the servers that it needs and that run nowhere else.

``run`` is the whole of it, ``plan`` what is started and how, ``supervisor`` starts processes again that have ended, ``watcher`` keeps
``state`` by the system's messages, ``display`` and ``live`` show it, and ``cycle`` checks each step of ``--once``.

It asks the services over NATS and REST, as any client does. Only commands (``cli``, ``backup``, ``predict``) import it.
"""
