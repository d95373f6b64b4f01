"""FastIoT's command line ``fiot`` with our commands, and nothing else: what a command does is in the package that it imports.

FastIoT imports these modules for every command, so each command imports its parts when it is called.

Importing this package imports FastIoT 1.1 with two mends, which is why ``fiot`` begins here. It finds its project by
``classmethod(property(...))``, which Python 3.13 does not know any more: there it finds none, and so no extension. And it warns,
whatever the command is, that git has no tag. Outside of a project, where FastIoT would know its own commands only, help and version
are the same, and other commands say where they work.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANYWHERE = ("-h", "--help", "--version", "--install-completion", "--show-completion", "create")
"""What needs no project."""


class _ClassProperty:
    """A property of a class."""

    def __init__(self, getter: Callable[[Any], Any]) -> None:
        self._getter = getter

    def __get__(self, instance: object, owner: type) -> Any:
        return self._getter(owner)


def _is_ours_to_heed(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(("No git tag has been set", "No file configure.py found"))


def _import_fastiot() -> None:
    root = logging.getLogger()
    root.addFilter(_is_ours_to_heed)
    try:
        from fastiot.cli.model.docker_template import DockerTemplate
        from fastiot.cli.model.infrastructure_service import InfrastructureService
        from fastiot.cli.model.project import ProjectContext
    finally:
        root.removeFilter(_is_ours_to_heed)
    for owner, name in ((ProjectContext, "default"), (DockerTemplate, "all"), (InfrastructureService, "all")):
        declared: Any = vars(owner)[name]
        if isinstance(declared, classmethod):
            setattr(owner, name, _ClassProperty(declared.__func__.fget))  # type: ignore[attr-defined]


_import_fastiot()


def main() -> None:
    """Run ``fiot``, installed in place of FastIoT's own script."""
    from fastiot.cli.fiot import main as fiot

    if not any((folder / "configure.py").is_file() for folder in (Path.cwd(), *Path.cwd().parents)):
        if sys.argv[1:] and not set(sys.argv[1:]) & set(ANYWHERE):
            sys.stderr.write(
                f"fiot: {Path.cwd()} is no project's folder: neither it nor one above it has a configure.py. Go to your project, or "
                "make one: complex-system init my-plant\n"
            )
            raise SystemExit(2)
        _import_extensions()
    fiot()


def _import_extensions() -> None:
    """Import what a project's ``configure.py`` names."""
    import importlib

    import fastiot.cli.typer_app  # noqa: F401 - before the extensions, as fiot does

    from complex_system.deploy.project import EXTENSIONS

    logging.getLogger().addFilter(_is_ours_to_heed)
    for extension in EXTENSIONS:
        importlib.import_module(extension)
