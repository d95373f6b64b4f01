"""``complex_system.background`` under its earlier name."""

from complex_system.background import started

__all__ = ["started"]
