"""A unit of systemd that runs a deployment for good: from the start of the machine on, again after a failure, with its logs kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from complex_system.errors import StartError

STOP_SECONDS = 90
"""A training and the databases end in this time; then systemd kills what is left."""


def service_unit(program: Path, folder: Path, deployment: str, user: str, options: Sequence[str] = ()) -> str:
    """Return the unit's text.

    Args:
        program: ``fiot`` of the environment that runs it.
        folder: The project's.
        deployment: What it runs.
        user: Account of the machine that runs it; data and passwords are this user's.
        options: Further options of ``fiot run``.

    Raises:
        StartError: The user's name is none, or a path has a line end.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_-]*", user):
        raise StartError(f"'{user}' is not the name of a user of this machine.")
    if any(re.search(r"[\r\n]", str(path)) for path in (program, folder)):
        raise StartError(f"A line end in {program} or {folder} cannot be in a unit.")
    command = " ".join(_quoted(part) for part in (str(program), "run", deployment, *options))
    return f"""\
[Unit]
Description=complex-system, deployment {deployment}
After=network-online.target
Wants=network-online.target
# Five starts in ten minutes without success, and it stays down: the journal says why.
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
User={user}
WorkingDirectory={str(folder).replace("%", "%%")}
ExecStart={command}
Restart=on-failure
RestartSec=10
# The run itself ends its services and servers in order; systemd only tells the run.
KillMode=mixed
TimeoutStopSec={STOP_SECONDS}
# Files of others stay as they are, and no service gains rights.
NoNewPrivileges=true
ProtectSystem=full
PrivateTmp=true

[Install]
WantedBy=multi-user.target
"""


def _quoted(part: str) -> str:
    """Return an argument of ExecStart: systemd expands % and $, and splits at spaces."""
    escaped = part.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r'[\s"\'\\;]', part) else escaped
