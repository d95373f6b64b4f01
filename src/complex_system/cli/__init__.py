"""FastIoT's command line ``fiot`` with our commands, and nothing else: what a command does is in the package that it imports.

FastIoT imports these modules for every command, so each command imports its parts when it is called. Outside of a project FastIoT
knows its own commands only; here help, version and the right command for a wrong one are the same there, and commands say where they
work.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import complex_system.messaging  # noqa: F401 - FastIoT with our mends, before anything else imports it

ANYWHERE = ("-h", "--help", "new-project")
"""What needs no project."""


def main() -> None:
    """Run ``fiot``, installed in place of FastIoT's own script."""
    from fastiot.cli.fiot import main as fiot

    if not any((folder / "configure.py").is_file() for folder in (Path.cwd(), *Path.cwd().parents)):
        _import_extensions()
        if _is_command(sys.argv[1:]) and not set(sys.argv[1:]) & set(ANYWHERE):
            sys.stderr.write(
                f"fiot: {Path.cwd()} is not a project's folder: neither it nor one above it has a configure.py. "
                "Go to your project, or make one: complex-system init my-plant\n"
            )
            raise SystemExit(2)
    fiot()


def _is_command(arguments: list[str]) -> bool:
    """Tell whether arguments call a command that there is, not a group's help, an option of ``fiot`` or a wrong name."""
    from fastiot.cli.typer_app import app
    from typer.main import get_command

    command: Any = get_command(app)
    for name in arguments:
        commands = getattr(command, "commands", {})
        if name not in commands:
            break
        command = commands[name]
    return not hasattr(command, "commands")


def _import_extensions() -> None:
    """Import what a project's ``configure.py`` names."""
    import importlib

    import fastiot.cli.typer_app  # noqa: F401 - before the extensions, as fiot does

    from complex_system.deploy.project import EXTENSIONS

    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("No file configure.py found"))
    for extension in EXTENSIONS:
        importlib.import_module(extension)
