"""A deployment's compose stack, driven by FastIoT's commands and inspected with Docker's."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class ProofError(Exception):
    """The proof failed; the message says why."""


@dataclass(frozen=True)
class Container:
    """A container as ``docker inspect`` describes it."""

    id: str
    service: str
    image: str
    running: bool
    health: str
    pid: int
    started: str
    ports: tuple[str, ...]
    user: str
    variables: dict[str, str]
    too_free: str

    @property
    def hostname(self) -> str:
        return self.id[:12]


def call(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None, quiet: bool = True) -> str:
    """Run a command and return its output; raise with its last lines when it fails."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, text=True, check=False,
                          stdout=subprocess.PIPE if quiet else None, stderr=subprocess.STDOUT if quiet else None)  # fmt: skip
    if done.returncode:
        raise ProofError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout or '')[-3000:]}")
    return done.stdout or ""


def fiot(*arguments: str, env: dict[str, str] | None = None) -> str:
    return call(str(Path(sys.executable).parent / "fiot"), *arguments, env=env)


def inspect(*names: str) -> list[dict[str, Any]]:
    return json.loads(call("docker", "inspect", *names)) if names else []


class Stack:
    """The containers of one deployment."""

    def __init__(self, deployment: str) -> None:
        self.deployment = deployment
        self.folder = ROOT / "build" / "deployments" / deployment
        self.project = f"{getpass.getuser()}__complex_system__{deployment}"

    def environment(self) -> dict[str, str]:
        """Return what clients on this host need: addresses, ports and passwords."""
        lines = (self.folder / ".env").read_text(encoding="utf-8").splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        found["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{found['COMPLEX_SYSTEM_MLFLOW_PORT']}"
        return found

    def compose(self, *arguments: str) -> str:
        # Standard error reports on every container; the result is on standard output.
        command = ["docker-compose", f"--project-name={self.project}", *arguments]
        done = subprocess.run(command, cwd=self.folder, text=True, capture_output=True, check=False)
        if done.returncode:
            raise ProofError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done.stdout

    def containers(self) -> list[Container]:
        """Return all containers of the deployment, by service."""
        label = f"label=com.docker.compose.project={self.project}"
        ids = call("docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", label).split()
        found = []
        for entry in inspect(*ids):
            state, bindings = entry["State"], entry["HostConfig"]["PortBindings"] or {}
            found.append(
                Container(
                    id=entry["Id"],
                    service=entry["Config"]["Labels"]["com.docker.compose.service"],
                    image=entry["Config"]["Image"],
                    running=state["Running"],
                    health=state.get("Health", {}).get("Status", "none"),
                    pid=state["Pid"],
                    started=state["StartedAt"],
                    ports=tuple(f"{one['HostIp']}:{one['HostPort']}" for many in bindings.values() for one in many or []),
                    user=entry["Config"]["User"],
                    variables=dict(each.split("=", 1) for each in entry["Config"]["Env"]),
                    too_free=_too_free(entry["HostConfig"]),
                )
            )
        return sorted(found, key=lambda container: container.service)

    def of(self, service: str) -> list[Container]:
        return [container for container in self.containers() if container.service == service]

    def wait_healthy(self, seconds: float, but: tuple[str, ...] = ()) -> float:
        """Wait until all containers are healthy; return the seconds."""
        began = time.monotonic()
        while True:
            waiting = [c for c in self.containers() if c.service not in but and (c.health != "healthy" or not c.running)]
            if not waiting:
                return time.monotonic() - began
            if time.monotonic() - began > seconds:
                log = self.compose("logs", "--tail=30", waiting[0].service)
                states = ", ".join(f"{c.service} {c.health}" for c in waiting)
                raise ProofError(f"Not healthy after {seconds:.0f} s: {states}\n{log}")
            time.sleep(1)

    @staticmethod
    def crash(container: Container) -> None:
        """Kill a container's first process as a crash would; Docker does not restart a container after ``docker kill``."""
        os.kill(container.pid, signal.SIGKILL)


def _too_free(host: dict[str, Any]) -> str:
    """Return what a container may do and should not; empty where there is nothing."""
    found = {
        "writes to its root": not host["ReadonlyRootfs"],
        "keeps capabilities": host["CapDrop"] != ["ALL"] or host["Privileged"],
        "may gain privileges": not any("no-new-privileges" in each for each in host["SecurityOpt"] or []),
        "has no limit of memory": not host["Memory"],
        "has no limit of processes": not host["PidsLimit"] or host["PidsLimit"] < 0,
    }
    return ", ".join(text for text, is_so in found.items() if is_so)


def image_sizes(images: list[str]) -> dict[str, int]:
    """Return the bytes of images, by name."""
    return {name: entry["Size"] for name, entry in zip(images, inspect(*images), strict=True)}
