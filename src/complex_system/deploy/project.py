"""What ``configure.py`` names: our additions to ``fiot``, and the services of the installed package."""

from __future__ import annotations

import complex_system.messaging  # noqa: F401 - FastIoT with our mends, before anything else imports it

# isort: split
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastiot.cli.constants import MANIFEST_FILENAME
from fastiot.cli.model.manifest import ServiceManifest
from fastiot.cli.model.service import Service

EXTENSIONS = [
    "complex_system.cli.start",
    "complex_system.cli.extras",
    "complex_system.cli.backup",
    "complex_system.cli.predict",
    "complex_system.cli.champion",
    "complex_system.infrastructure",
    "complex_system.cli.tool",
]
"""Our additions to ``fiot``."""
_SERVICES = "complex_system_services"


class InstalledService(Service):
    """A service of an installed package, whose manifest is not in the project's ``src``."""

    def read_manifest(self, check_service_name: str = "") -> ServiceManifest:
        """Return the manifest that is installed beside the service."""
        path = _services_folder() / self.name / MANIFEST_FILENAME
        return ServiceManifest.from_yaml_file(str(path), check_service_name=check_service_name)


def installed_services() -> list[Any]:
    """Return the services of the installed package, by name, for ``services`` in a project's ``configure.py``."""
    names = sorted(path.parent.name for path in _services_folder().glob(f"*/{MANIFEST_FILENAME}"))
    return [InstalledService(name=name, package=_SERVICES) for name in names]


def all_services(own: Sequence[Any]) -> list[Any]:
    """Return a project's services, and those of the installed package whose place none of them takes, for ``configure.py``."""
    names = {service.name for service in own}
    return [*(service for service in installed_services() if service.name not in names), *own]


def _services_folder() -> Path:
    return Path(str(files(_SERVICES)))
