"""FastIoT's command line ``fiot`` with our commands, and nothing else: what a command does is in the package that it imports.

FastIoT imports these modules for every command, so each command imports its parts when it is called.
"""

from __future__ import annotations

import complex_system.messaging  # noqa: F401 - FastIoT with our mends, before anything else imports it


def main() -> None:
    """Run ``fiot``, installed in place of FastIoT's own script."""
    from fastiot.cli.fiot import main as fiot

    fiot()
