"""The public images that a deployment names, their servers in containers, and what these say that they are."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import complex_system.cli  # noqa: F401 - before FastIoT, whose warnings it keeps back
from complex_system.infrastructure import (
    GrafanaService,
    MariaDatabase,
    MlflowService,
    MongoDatabase,
    NatsBroker,
    PrometheusService,
)
from complex_system.local.servers import (
    HOST,
    NATS_MAX_PAYLOAD,
    MariaServer,
    MlflowServer,
    MongoServer,
    NatsServer,
    Server,
    free_port,
)
from given import ADDRESSES, GivenServer
from support import BROKER_PASSWORD, guarded

LABEL = "complex-system-verify"
MEMBERS = 3
"""Members of MongoDB's replica set."""
_DECLARED = {
    "nats": NatsBroker, "mongo": MongoDatabase, "mariadb": MariaDatabase, "mlflow": MlflowService,
    "prometheus": PrometheusService, "grafana": GrafanaService,
}  # fmt: skip
IMAGES: dict[str, str] = {name: kind.__fields__["image"].default for name, kind in _DECLARED.items()}
"""The images that the compose files name."""
_OWN_VARIABLE = {"nats": "NATS_SERVER", "mongo": "MONGO_VERSION", "mariadb": "MARIADB_VERSION", "grafana": "GF_PATHS_HOME"}
"""A variable that the publisher of an image sets in it."""
_OWN_LABEL = {"prometheus": ("maintainer", "The Prometheus Authors")}
"""A label of the publisher, where there is no such variable, and how it begins. MLflow's images have neither."""
DEVICES = ("COMPLEX_SYSTEM_NATS_DEVICE_PRESS_4", "COMPLEX_SYSTEM_NATS_DEVICE_PRESS_5")


class DockerError(Exception):
    """Docker refused something; the message says what."""


def docker(*arguments: str, seconds: float = 120) -> str:
    """Run a command of Docker and return what it prints."""
    try:
        done = subprocess.run(["docker", *arguments], text=True, capture_output=True, check=False, timeout=seconds)
    except FileNotFoundError as error:
        raise DockerError("docker is not installed") from error
    except OSError as error:
        raise DockerError(f"docker cannot be called: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise DockerError(f"docker {arguments[0]} has not ended within {seconds:.0f} s") from error
    if done.returncode:
        raise DockerError(f"docker {arguments[0]}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout.strip()


@dataclass
class Image:
    """A public image, as this machine has it.

    Attributes:
        missing: Why it is not here; empty if it is.
        digest: The registry's digest, or this machine's id where it has none.
        version: What the server in it answers.
        doubts: Why it is not the published image; empty if nothing speaks against it.
        uncertain: Why it may be another image than the published one, although nothing speaks against it; empty if that is excluded.
    """

    name: str
    reference: str
    missing: str = ""
    digest: str = ""
    version: str = ""
    doubts: list[str] = field(default_factory=list)
    uncertain: str = ""

    def look(self, *, pull: bool) -> None:
        """Find the image here, or at its registry."""
        try:
            if not docker("images", "--quiet", self.reference):
                if not pull:
                    raise DockerError("it is not on this machine")
                docker("pull", "--quiet", self.reference, seconds=1800)
            [described] = json.loads(docker("image", "inspect", self.reference))
            every_image_has_a_digest = "io.containerd.snapshotter" in docker("info", "--format", "{{json .DriverStatus}}")
        except DockerError as error:
            self.missing = f"image not available: {error}"
            return
        self.judge(described, every_image_has_a_digest=every_image_has_a_digest)

    def judge(self, described: dict[str, Any], *, every_image_has_a_digest: bool) -> None:
        """Note what ``docker image inspect`` says; in containerd's store, images built here have a digest, too."""
        digests = described.get("RepoDigests") or []
        self.digest = digests[0].partition("@")[2] if digests else described["Id"]
        if not digests:
            self.doubts.append("built on this machine (no digest of a registry)")
        own = _OWN_VARIABLE.get(self.name)
        variables = [each.partition("=")[0] for each in described["Config"].get("Env") or []]
        if own and own not in variables:
            self.doubts.append(f"without {own} of the published image")
        label, begin = _OWN_LABEL.get(self.name, ("", ""))
        if label and not (described["Config"].get("Labels") or {}).get(label, "").startswith(begin):
            self.doubts.append(f"without the label {label} of the published image")
        if every_image_has_a_digest and not own and not label:
            self.uncertain = (
                "origin not certain: nothing in it names its publisher, and here Docker gives a digest to every image"
            )

    def heard(self, version: str, product: str = "") -> None:
        """Note what the server says; a ``product`` is another one than the image should have."""
        self.version = f"{product}, as {version}" if product else version
        if product:
            self.doubts.append(f"the server says that it is {product}")
        wanted, said = (re.findall(r"\d+", text) for text in (self.reference.rpartition(":")[2].partition("-")[0], version))
        if said[: len(wanted)] != wanted:
            self.doubts.append("the server has another version than the tag says")
        if "deb" in version:
            self.doubts.append("the server is Debian's")


class Run:
    """The containers of one run, which all go at its end."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(4)
        self.folder = Path(tempfile.mkdtemp(prefix="complex-system-verify-"))

    def container(self, name: str, image: str, *options: str, command: tuple[str, ...] = ()) -> str:
        """Start a container and return its name."""
        full = f"{LABEL}-{self.id}-{name}"
        docker("run", "--detach", "--name", full, "--label", f"{LABEL}={self.id}", *options, image, *command, seconds=300)
        return full

    def network(self) -> str:
        """Make a network and return its name."""
        name = f"{LABEL}-{self.id}"
        with suppress(DockerError):
            docker("network", "create", "--label", f"{LABEL}={self.id}", name)
        return name

    def remove(self) -> None:
        """Remove all containers, with their data, and networks."""
        label = f"label={LABEL}={self.id}"
        with suppress(DockerError):
            if names := docker("ps", "--all", "--quiet", "--filter", label).split():
                docker("rm", "--force", "--volumes", *names, seconds=300)
            if networks := docker("network", "ls", "--quiet", "--filter", label).split():
                docker("network", "rm", *networks)


@dataclass(frozen=True)
class Started:
    """A server in containers.

    Attributes:
        variables: What gives it to the tests.
    """

    server: GivenServer
    variables: dict[str, str]


@contextmanager
def started(run: Run, name: str, image: Image) -> Iterator[Started]:
    """Start a server of ``nats``, ``nats-with-users``, ``mongo``, ``mariadb`` or ``mlflow`` in containers, until the block ends."""
    names: list[str] = []
    try:
        kind, class_name, account, port = _STARTS[name](run, image, names)
        address = f"{kind.scheme}://{account}{HOST}:{port}"
        members = tuple(each for each in names if not each.endswith("-addresses"))
        server = GivenServer(kind, address, members)
        server.wait_ready()
        variable = ADDRESSES[class_name]
        yield Started(server, {variable: address, f"{variable}_CONTAINERS": ",".join(members)})
    finally:
        if names:
            with suppress(DockerError):
                docker("rm", "--force", "--volumes", *names, seconds=300)


_Start = Callable[[Run, Image, list[str]], tuple[type[Server], str, str, int]]


def _nats(run: Run, image: Image, names: list[str], *, users: bool = False) -> tuple[type[Server], str, str, int]:
    port = free_port()
    folder = run.folder / f"nats-{port}"
    folder.mkdir()
    lines = [
        "listen: 0.0.0.0:4222",
        f"max_payload: {NATS_MAX_PAYLOAD}",
        'jetstream { store_dir: "/data", sync_interval: always }',
    ]
    (folder / "nats.conf").write_text("\n".join(lines) + "\n" + (guarded(*DEVICES) if users else ""))
    options = (f"--publish={HOST}:{port}:4222", "--volume=/data", f"--volume={folder}/nats.conf:/etc/nats/nats.conf:ro")
    command = ("--config", "/etc/nats/nats.conf")
    names.append(run.container(f"nats-{port}", image.reference, *options, command=command))
    return NatsServer, "GuardedNatsServer" if users else "NatsServer", f":{BROKER_PASSWORD}@" if users else "", port


def is_mongod(image: Image) -> bool:
    """Whether the image has MongoDB's own server."""
    with suppress(DockerError):
        return docker("run", "--rm", "--entrypoint", "mongod", image.reference, "--version").startswith("db version")
    return False


def _mongo(run: Run, image: Image, names: list[str]) -> tuple[type[Server], str, str, int]:
    """Start a replica set, whose members have one network, so that all, and the tests, know them by the same addresses."""
    if not is_mongod(image):
        port = free_port()
        names.append(run.container(f"mongo-{port}", image.reference, f"--publish={HOST}:{port}:27017"))
        return MongoServer, "MongoServer", "", port
    ports = [free_port() for _ in range(MEMBERS)]
    published = [f"--publish={HOST}:{port}:{port}" for port in ports]
    shared = run.container(
        f"mongo-{ports[0]}-addresses", image.reference, *published, "--entrypoint=sleep", command=("infinity",)
    )
    for port in ports:
        command = (
            "--replSet",
            "rs0",
            "--bind_ip_all",
            "--port",
            str(port),
            "--wiredTigerCacheSizeGB",
            "0.25",
            "--oplogSize",
            "256",
        )
        names.append(run.container(f"mongo-{port}", image.reference, f"--network=container:{shared}", command=command))
    names.append(shared)
    _initiate(ports)
    return MongoServer, "MongoServer", "", ports[0]


def _initiate(ports: list[int]) -> None:
    from pymongo import MongoClient
    from pymongo.errors import AutoReconnect, OperationFailure

    members = [{"_id": number, "host": f"{HOST}:{port}"} for number, port in enumerate(ports)]
    configuration = {"_id": "rs0", "members": members, "settings": {"electionTimeoutMillis": 3000}}
    with MongoClient[Any](HOST, ports[0], directConnection=True, serverSelectionTimeoutMS=60_000) as client:
        for patience in reversed(range(60)):
            try:
                client.admin.command("replSetInitiate", configuration)
                return
            except (AutoReconnect, OperationFailure) as error:  # another member does not answer yet
                if patience == 0 or getattr(error, "code", None) == 23:  # already initialized, by the attempt before
                    if getattr(error, "code", None) == 23:
                        return
                    raise DockerError(f"The replica set cannot be made: {error}") from error


def _mariadb(run: Run, image: Image, names: list[str]) -> tuple[type[Server], str, str, int]:
    port, password = free_port(), secrets.token_hex(12)
    options = (
        f"--publish={HOST}:{port}:3306",
        f"--env=MARIADB_ROOT_PASSWORD={password}",
        "--env=MARIADB_INITDB_SKIP_TZINFO=yes",
    )
    command = ("--max-allowed-packet=64M", "--innodb-buffer-pool-size=256M", "--skip-name-resolve", "--local-infile=0")
    names.append(run.container(f"mariadb-{port}", image.reference, *options, command=command))
    return MariaServer, "MariaServer", f"root:{password}@", port


def _mlflow(run: Run, image: Image, names: list[str]) -> tuple[type[Server], str, str, int]:
    port = free_port()
    given = {
        "MLFLOW_BACKEND_STORE_URI": "sqlite:////mlflow/mlflow.db", "MLFLOW_ARTIFACTS_DESTINATION": "/mlflow/artifacts",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"{HOST},{HOST}:*", "MLFLOW_WORKERS": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }  # fmt: skip
    options = [
        f"--publish={HOST}:{port}:8080",
        "--volume=/mlflow",
        *(f"--env={name}={value}" for name, value in given.items()),
    ]
    command = ("mlflow", "server", "--host", "0.0.0.0", "--port", "8080")
    names.append(run.container(f"mlflow-{port}", image.reference, *options, command=command))
    return MlflowServer, "MlflowServer", "", port


_STARTS: dict[str, _Start] = {
    "nats": _nats,
    "nats-with-users": lambda run, image, names: _nats(run, image, names, users=True),
    "mongo": _mongo,
    "mariadb": _mariadb,
    "mlflow": _mlflow,
}


def ask_version(image: Image, server: GivenServer) -> None:
    """Ask a server what it is, and note it at its image."""
    if image.name == "nats":
        import socket

        with socket.create_connection((HOST, server.port), timeout=5) as connection:
            image.heard(json.loads(connection.recv(4096).partition(b"INFO ")[2].splitlines()[0])["version"])
    elif image.name == "mongo":
        from pymongo import MongoClient

        with MongoClient[Any](HOST, server.port, serverSelectionTimeoutMS=10_000) as client:
            built, hello = client.admin.command("buildInfo"), client.admin.command("hello")
        other = f"SecantusDB {built['secantusVersion']}" if "secantusVersion" in built else ""
        image.heard(built["version"], other)
        if not other:
            image.version += f", replica set of {len(hello.get('hosts', []))}"
    elif image.name == "mariadb":
        import mariadb

        with mariadb.connect(host=HOST, port=server.port, user=server.user, password=server.secret) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT VERSION()")
            image.heard(cursor.fetchone()[0])
    elif image.name == "mlflow":
        with urllib.request.urlopen(f"{server.url}/version", timeout=10) as answer:  # noqa: S310 - on loopback
            image.heard(answer.read().decode())
