"""How services talk: subjects, replies that always come, typed clients, and the service base class.

Beside the services and the CLI extensions, this is the only package that imports FastIoT; what FastIoT lacks (queue groups, error
replies, handlers side by side, reconnects) is added here and nowhere else.
"""
