"""Names that MLflow takes, for what is named after a column."""

from __future__ import annotations

import hashlib
import posixpath
import re

LONGEST = 250
"""Characters of a metric's name."""
_REFUSED = re.compile(r"[^/\w.\- :]+")


def metric_name(name: str) -> str:
    """The name under which a metric is logged.

    MLflow takes letters of any alphabet, digits, ``_ - . : /`` and blanks, and no name that a path would be read otherwise. A name
    that it takes stays as it is. In another, what it refuses becomes ``_``, and 6 hex digits of a hash keep names apart which would
    then be alike: ``data/psi/Temp. [°C]`` is ``data/psi/Temp. _C_-86864a``.

    Args:
        name: Made by this software out of words with ``/`` between them and, at its end, a column's name.
    """
    made = _REFUSED.sub("_", name)
    path = posixpath.normpath(made)
    if made == name and path == name and len(name) <= LONGEST and not path.startswith(("/", "..")) and path != ".":
        return name
    if path != made:
        made = "/".join(part if part.strip(".") else "_" for part in made.split("/"))
    return f"{made[: LONGEST - 7]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
