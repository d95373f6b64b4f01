"""From a lab record to a served prediction: the library behind the twelve FastIoT services.

The packages, in the order in which data meets them: ``domain`` (what the data are), ``messaging`` (how services talk),
``storage``, ``preprocessing``, ``training``, ``tracking``, ``serving``, ``monitoring``; ``local`` runs all of it on one
machine without Docker.
"""

__version__ = "0.1.0"
