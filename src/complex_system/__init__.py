"""From a lab record to a served prediction: the library behind the twelve FastIoT services.

In the order in which data pass the packages: ``domain`` (what data are), ``protocol`` (what services say), ``messaging`` (how they
say it), ``storage``, ``pipeline``, ``training``, ``tracking``, ``evaluation``, ``serving``, ``monitoring``. ``service_layer`` joins
them to services; ``local`` runs everything on one machine without Docker. docs/architecture.md has the map.
"""

__version__ = "0.1.0"
