"""Build the services' images with plain ``docker build``, for machines without buildx.

``python -m complex_system.deploy.images [SERVICE...]`` builds the Dockerfiles that ``fiot build --dry`` wrote.
``PIP_INDEX_URL`` and ``PIP_EXTRA_INDEX_URL`` name package indexes.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from complex_system import __version__
from complex_system.errors import StartError

log = logging.getLogger(__name__)

_LIBRARY = "complex_system"
_PACKAGE = Path(__file__).parents[1]

BUILD_ARGUMENTS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
STAGE = "debug"
"""FastIoT's name of the stage with the sources, not compiled."""


_NODE_OF = "ml_lightgbm_regression_mlflow"
"""The trainer whose image becomes that of Ray's nodes, with what the others need added."""


def is_project(library: str) -> bool:
    """Return whether a project, by the ``library_package`` of its ``configure.py``, uses complex-system as an installed package."""
    return library != _LIBRARY


def write_build_context(root: Path) -> None:
    """Copy what the images of a project take from the installed package into ``build/docker/complex_system``.

    Raises:
        StartError: The project lacks ``requirements.txt``.
    """
    if not (root / "requirements.txt").is_file():
        raise StartError(
            f"{root / 'requirements.txt'} is missing. It lists the packages that services of your own need in their images; "
            "an empty file will do."
        )
    folder = root / "build" / "docker" / "complex_system"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(_PACKAGE / "deploy" / "image_files", folder)  # links become what they point to
    leave = shutil.ignore_patterns("__pycache__", "image_files", "new_project")
    for package in (_LIBRARY, "complex_system_services"):
        shutil.copytree(Path(str(files(package))), folder / "src" / package, ignore=leave)


def build_command(dockerfile: Path, image: str, environment: Mapping[str, str], more_parts: str = "") -> list[str]:
    """Return the command that builds one image; the context is the working directory."""
    arguments = [f"{name}={environment[name]}" for name in BUILD_ARGUMENTS if environment.get(name)]
    arguments += [f"MORE_PARTS={more_parts}"] if more_parts else []
    options = [option for argument in arguments for option in ("--build-arg", argument)]
    label = f"org.opencontainers.image.version={__version__}"
    return ["docker", "build", "--file", str(dockerfile), "--target", STAGE, "--tag", image, "--label", label, *options, "."]


def build_images(
    root: Path, namespace: str, services: Sequence[str] = (), tag: str = "latest", *, cluster: bool = False
) -> dict[str, float]:
    """Build images one after the other; what has not changed comes from Docker's cache.

    Args:
        root: The project's folder, with ``build/docker/Dockerfile.<service>``.
        namespace: First part of the image names.
        services: Names of the services; all that have a Dockerfile when empty.
        tag: Tag of the images.
        cluster: Whether the trainers are built with Ray, too, and the image of Ray's nodes.

    Returns:
        Seconds by image.

    Raises:
        StartError: Docker or a Dockerfile is missing, or a build failed.
    """
    if shutil.which("docker") is None:
        raise StartError("docker is missing: install Docker Engine.")
    folder = root / "build" / "docker"
    found = sorted(path.name.removeprefix("Dockerfile.") for path in folder.glob("Dockerfile.*"))
    wanted = list(services) or found
    if missing := sorted(set(wanted) - set(found)) or (not wanted and ["any service"]):
        raise StartError(f"There is no Dockerfile of {', '.join(missing)} in {folder}; `fiot build --dry` writes them.")
    images = {service: (service, "") for service in wanted} | (cluster_images(wanted) if cluster else {})
    seconds = {}
    for name, (service, parts) in images.items():
        began = time.monotonic()
        command = build_command(folder / f"Dockerfile.{service}", f"{namespace}/{name}:{tag}", os.environ, parts)
        # The classic builder is available everywhere and shares layers between images.
        done = subprocess.run(command, cwd=root, env={**os.environ, "DOCKER_BUILDKIT": "0"}, check=False)  # noqa: S603
        if done.returncode:
            raise StartError(f"The image {name} could not be built: docker build ended with {done.returncode}.")
        seconds[name] = time.monotonic() - began
        log.info("%s/%s:%s built in %.0f s", namespace, name, tag, seconds[name])
    return seconds


def cluster_images(services: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the images for a Ray cluster by name: the service whose Dockerfile makes it, and the parts that it has besides."""
    trainers = [service for service in services if "_regression" in service]
    found = {f"{service}-cluster": (service, "cluster") for service in trainers}
    return {**found, "ray": (_NODE_OF, "cluster pytorch tensorflow")} if trainers else found


def main() -> None:
    """Read the command line and build."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m complex_system.deploy.images", description="Build the services' images with plain docker build."
    )
    parser.add_argument("services", nargs="*", help="names of services; all by default")
    parser.add_argument("--tag", default="latest")
    parser.add_argument(
        "--cluster", action="store_true", help="build the trainers with Ray, too, and the image of Ray's nodes"
    )
    options = parser.parse_args()
    try:
        build_images(Path.cwd(), _namespace(), options.services, options.tag, cluster=options.cluster)
    except StartError as error:
        raise SystemExit(error.message) from error


def _namespace() -> str:
    import complex_system.messaging  # noqa: F401 - FastIoT with our mends

    # isort: split
    from fastiot.cli.model.project import ProjectContext

    return str(ProjectContext.default.project_namespace)


if __name__ == "__main__":
    main()
