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
from pathlib import Path

from complex_system.errors import StartError

log = logging.getLogger(__name__)

BUILD_ARGUMENTS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
STAGE = "debug"
"""FastIoT's name of the stage with the sources, not compiled."""


def build_command(dockerfile: Path, image: str, environment: Mapping[str, str]) -> list[str]:
    """Return the command that builds one image; the context is the working directory."""
    arguments = [f"{name}={environment[name]}" for name in BUILD_ARGUMENTS if environment.get(name)]
    options = [option for argument in arguments for option in ("--build-arg", argument)]
    return ["docker", "build", "--file", str(dockerfile), "--target", STAGE, "--tag", image, *options, "."]


def build_images(root: Path, namespace: str, services: Sequence[str] = (), tag: str = "latest") -> dict[str, float]:
    """Build images one after the other; what has not changed comes from Docker's cache.

    Args:
        root: The project's folder, with ``build/docker/Dockerfile.<service>``.
        namespace: First part of the image names.
        services: Names of the services; all that have a Dockerfile when empty.
        tag: Tag of the images.

    Returns:
        Seconds by service.

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
    seconds = {}
    for service in wanted:
        began = time.monotonic()
        command = build_command(folder / f"Dockerfile.{service}", f"{namespace}/{service}:{tag}", os.environ)
        # The classic builder is available everywhere and shares layers between images.
        done = subprocess.run(command, cwd=root, env={**os.environ, "DOCKER_BUILDKIT": "0"}, check=False)  # noqa: S603
        if done.returncode:
            raise StartError(f"The image of {service} could not be built: docker build ended with {done.returncode}.")
        seconds[service] = time.monotonic() - began
        log.info("%s/%s:%s built in %.0f s", namespace, service, tag, seconds[service])
    return seconds


def main() -> None:
    """Read the command line and build."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description="Build the services' images with plain docker build.")
    parser.add_argument("services", nargs="*", help="names of services; all by default")
    parser.add_argument("--tag", default="latest")
    options = parser.parse_args()
    try:
        build_images(Path.cwd(), "complex_system", options.services, options.tag)
    except StartError as error:
        raise SystemExit(error.message) from error


if __name__ == "__main__":
    main()
