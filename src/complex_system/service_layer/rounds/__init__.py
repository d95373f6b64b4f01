"""Training rounds over the broker: what begins when (scheduler), one round (round), and what follows from it (champion).

The rules themselves, which need no broker, are in ``complex_system.evaluation``.
"""
