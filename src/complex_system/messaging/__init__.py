"""How services talk: subjects, replies that always come, typed clients, and the service base class.

Beside the services and the CLI extensions, this is the only package that imports FastIoT; what FastIoT lacks (queue groups, error
replies, handlers side by side, reconnects) is added here and nowhere else.

Importing this package imports FastIoT 1.1 with two mends, so whatever else imports FastIoT imports this package before. FastIoT
finds a project by ``classmethod(property(...))``, which Python 3.13 does not know any more: there it finds none, and so no extension
of ``fiot``. And it warns, whatever imports it, that git has no tag.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any


class _ClassProperty:
    """A property of a class."""

    def __init__(self, getter: Callable[[Any], Any]) -> None:
        self._getter = getter

    def __get__(self, instance: object, owner: type) -> Any:
        return self._getter(owner)


def _is_to_heed(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("No git tag has been set")


def _import_fastiot() -> None:
    root = logging.getLogger()
    root.addFilter(_is_to_heed)
    try:
        from fastiot.cli.model.docker_template import DockerTemplate
        from fastiot.cli.model.infrastructure_service import InfrastructureService
        from fastiot.cli.model.project import ProjectContext
    finally:
        root.removeFilter(_is_to_heed)
    for owner, name in ((ProjectContext, "default"), (DockerTemplate, "all"), (InfrastructureService, "all")):
        declared: Any = vars(owner)[name]
        if isinstance(declared, classmethod):
            setattr(owner, name, _ClassProperty(declared.__func__.fget))  # type: ignore[attr-defined]


_import_fastiot()
