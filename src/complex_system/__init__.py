"""From a lab record to a served prediction: the library behind the twelve FastIoT services.

In the order in which data pass the packages: ``domain`` (what data are), ``protocol`` (what services say), ``messaging`` (how they
say it), ``storage``, ``pipeline``, ``training``, ``tracking``, ``evaluation``, ``serving``, ``monitoring``. ``service_layer`` joins
them to services; ``local`` runs everything on one machine without Docker. docs/architecture.md has the map.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from complex_system.notebook import load, models

__version__ = "1.0.0"
__all__ = ["load", "models"]


def __getattr__(name: str) -> Any:
    """Import what notebooks use when it is used: services and commands start without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("complex_system.notebook"), name)
