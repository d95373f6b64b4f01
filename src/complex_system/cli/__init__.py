"""FastIoT's command line ``fiot`` with our commands, and nothing else: what a command does is in the package that it imports.

FastIoT imports these modules for every command, so each command imports its parts when it is called. Outside of a project FastIoT
knows its own commands only; here help and version are the same there, and other commands say where they work.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import complex_system.messaging  # noqa: F401 - FastIoT with our mends, before anything else imports it

ANYWHERE = ("-h", "--help", "--version", "--install-completion", "--show-completion", "create")
"""What needs no project."""


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

    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("No file configure.py found"))
    for extension in EXTENSIONS:
        importlib.import_module(extension)
