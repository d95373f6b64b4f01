"""What FastIoT's commands make of the deployments: secrets, compose files, Dockerfiles; no Docker is needed."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from complex_system.deploy.env_file import env_text, missing_variables, random_password, write_env
from complex_system.deploy.images import build_command, build_images
from complex_system.errors import StartError

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = sorted(path.parent.name for path in (ROOT / "deployments").glob("*/deployment.yaml"))
MANIFESTS = {path.parent.name: path for path in (ROOT / "src" / "complex_system_services").glob("*/manifest.yaml")}


def fiot(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "fiot"), *arguments]
    return subprocess.run(command, cwd=project, text=True, capture_output=True, check=False, env=os.environ)


def manifest(service: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(MANIFESTS[service].read_text(encoding="utf-8"))["fastiot_service"]
    return content


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project without what is built or run; sources are linked."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("src", "requirements", "requirements.txt", "pyproject.toml", "configure.py"):
        (folder / name).symlink_to(ROOT / name)
    for deployment in DEPLOYMENTS:
        (folder / "deployments" / deployment).mkdir(parents=True)
        for name in ("deployment.yaml", "nats.conf", "config_dir"):
            (folder / "deployments" / deployment / name).symlink_to(ROOT / "deployments" / deployment / name)
    return folder


@pytest.fixture(scope="module")
def configured(project: Path) -> Path:
    """The project with every deployment initialised and configured."""
    for deployment in DEPLOYMENTS:
        done = fiot(project, "extras", "init-env", deployment)
        assert done.returncode == 0, done.stderr
    done = fiot(project, "config")
    assert done.returncode == 0, done.stderr
    return project


def compose(project: Path, deployment: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(
        (project / "build/deployments" / deployment / "docker-compose.yaml").read_text()
    )
    return content


# Secrets


def test_without_its_env_a_deployment_is_neither_started_nor_configured(project: Path) -> None:
    for command in ("start", "config"):
        done = fiot(project, command, "mongo")
        assert done.returncode == 1
        assert "FASTIOT_NATS_PASSWORD" in done.stderr
        assert "fiot extras init-env mongo" in done.stderr


def test_an_env_is_for_its_owner_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    write_env(path, "A=1\n")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StartError, match="--force"):
        write_env(path, "A=2\n")
    assert path.read_text() == "A=1\n"
    write_env(path, "A=3\n", replace=True)
    assert path.read_text() == "A=3\n"


def test_passwords_are_random_and_need_no_escaping() -> None:
    passwords = {random_password() for _ in range(200)}
    assert len(passwords) == 200
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9]{31}", password) for password in passwords)


def test_every_deployment_asks_for_passwords_of_the_servers_it_has() -> None:
    own = {"nats": False, "mariadb": False, "mlflow": False}
    text = env_text("maria", own, ["ml_serving"])
    values = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert missing_variables(own, values) == []
    assert set(values) == {
        "FASTIOT_NATS_USER", "FASTIOT_NATS_PASSWORD", "FASTIOT_MARIA_DB_USER", "FASTIOT_MARIA_DB_PASSWORD",
        "COMPLEX_SYSTEM_MARIA_ROOT_PASSWORD", "COMPLEX_SYSTEM_API_KEY",
    }  # fmt: skip
    elsewhere = {"nats": False, "mongodb": True}
    assert missing_variables(elsewhere, {}) == ["FASTIOT_NATS_USER", "FASTIOT_NATS_PASSWORD"]
    assert "#FASTIOT_MONGO_DB_PASSWORD=\n" in env_text("there", elsewhere)


def test_git_never_sees_an_env() -> None:
    done = subprocess.run(["git", "check-ignore", "--no-index", "deployments/mongo/.env", "build/deployments/mongo/.env"],
                          cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    assert len(done.stdout.splitlines()) == 2


# Compose files


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_the_compose_file_is_closed_pinned_and_knows_its_servers(configured: Path, deployment: str) -> None:
    content = compose(configured, deployment)
    assert content["services"]
    for name, service in content["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "container_name" not in service
        if not service["image"].startswith("complex_system/"):
            assert re.search(r":v?\d", service["image"]), f"{service['image']} is not pinned"
            assert "healthcheck" in service
        assert service["environment"]["FASTIOT_NATS_HOST"] == "nats"
        assert service["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:8080"
        declared = [volume.split(":")[0] for volume in service.get("volumes", []) if volume[0] not in "./"]
        assert set(declared) <= set(content.get("volumes", {}))
    passwords = [line.split("=", 1)[1] for line in (configured / "deployments" / deployment / ".env").read_text().splitlines()
                 if re.match(r"\w+(PASSWORD|KEY)=", line)]  # fmt: skip
    assert passwords
    assert "12345" not in passwords
    assert (configured / "build/deployments" / deployment).stat().st_mode & 0o077 == 0


def test_trainer_and_serving_share_the_artifacts_of_weights_and_biases(configured: Path) -> None:
    services = compose(configured, "mongo")["services"]
    for name in ("ml_pytorch_regression", "ml_serving"):
        assert "wandb:/var/lib/wandb" in services[name]["volumes"]
        assert services[name]["environment"]["WANDB_DIR"] == "/var/lib/wandb"


def test_an_address_to_bind_to_can_be_chosen(configured: Path) -> None:
    path = configured / "deployments" / "integration_test" / ".env"
    before = path.read_text()
    path.write_text(before + "COMPLEX_SYSTEM_BIND_ADDRESS=10.0.0.5\n")
    try:
        assert fiot(configured, "config", "integration_test").returncode == 0
        assert "10.0.0.5:4222:4222" in compose(configured, "integration_test")["services"]["nats"]["ports"]
    finally:
        path.write_text(before)
        fiot(configured, "config", "integration_test")


def test_the_deployments_ship_one_broker_configuration() -> None:
    texts = {(ROOT / "deployments" / deployment / "nats.conf").read_text(encoding="utf-8") for deployment in DEPLOYMENTS}
    assert len(texts) == 1


@pytest.mark.parametrize("deployment", ["maria", "mongo"])
def test_what_is_published_is_kept_on_a_volume(configured: Path, deployment: str) -> None:
    conf = (ROOT / "deployments" / deployment / "nats.conf").read_text(encoding="utf-8")
    place = re.search(r'^jetstream \{ store_dir: "([^"]+)", sync_interval: always \}', conf, re.MULTILINE)
    assert place is not None
    mounted = {volume.rsplit(":", 1)[1] for volume in compose(configured, deployment)["services"]["nats"]["volumes"]}
    assert place[1] in mounted


# Images


@pytest.fixture(scope="module")
def dockerfiles(project: Path) -> dict[str, str]:
    done = fiot(project, "build", "--dry")
    assert done.returncode == 0, done.stderr
    return {
        path.name.removeprefix("Dockerfile."): path.read_text() for path in (project / "build/docker").glob("Dockerfile.*")
    }


def test_every_service_has_a_dockerfile_a_health_check_and_no_root(project: Path, dockerfiles: dict[str, str]) -> None:
    assert set(dockerfiles) == set(MANIFESTS)
    for service, text in dockerfiles.items():
        assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE), service
        assert re.search(r"^USER fastiot$", text, re.MULTILINE), service
        parts = [f"RUN /bin/bash install.sh {part}" for part in manifest(service).get("additional_requirements", [])]
        assert [line for line in text.splitlines() if line.startswith("RUN /bin/bash install.sh ")] == parts
        assert "constraints.txt" in text
        assert "piwheels" not in text
    # Both modes of `fiot build` stop at the stage with the sources; there is no stage that compiles.
    targets = re.findall(r'^    target = "(\w+)"$', (project / "build/docker/docker-bake.hcl").read_text(), re.MULTILINE)
    assert targets == ["debug"] * 2 * len(MANIFESTS)


@pytest.mark.parametrize(("part", "services"), [
    ("pytorch", {"ml_pytorch_regression", "ml_pytorch_regression_mlflow"}),
    ("tensorflow", {"ml_tensorflow_regression_mlflow"}),
    ("lightgbm", {"ml_lightgbm_regression_mlflow"}),
    ("mongo", {"database_mongo"}),
    ("maria", {"database_maria"}),
])  # fmt: skip
def test_a_framework_or_driver_is_installed_where_it_is_used(part: str, services: set[str]) -> None:
    assert {service for service in MANIFESTS if part in manifest(service).get("additional_requirements", [])} == services


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_every_requirement_of_the_images_has_its_version_in_the_constraints() -> None:
    pinned = {_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    files = [ROOT / "requirements.txt", *(ROOT / "requirements").glob("requirements.*.txt")]
    wanted = {_name(line) for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")}
    assert wanted <= pinned
    parts = {part for service in MANIFESTS for part in manifest(service).get("additional_requirements", [])}
    assert {file.name for file in files[1:]} == {f"requirements.{part}.txt" for part in parts}


BLOCKED_IMPORT = """
import importlib.abc, importlib.metadata, re, sys

def name_of(text): return re.split(r"[<>=!~;\\[ (]", text.strip(), maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")

have, waiting = set(), sys.argv[2].split()
while waiting:
    name = name_of(waiting.pop())
    if name in have:
        continue
    have.add(name)
    if name == "kioptipack-dataprocessing":
        continue  # installed without its dependencies
    try:
        required = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        continue
    waiting += [line for line in required if "extra ==" not in line]

owners = importlib.metadata.packages_distributions()

class OnlyWhatTheImageHas(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = owners.get(top, [])
        if known and not {name_of(one) for one in known} & (have | {"complex-system", "pip", "setuptools"}):
            raise ModuleNotFoundError(f"No module named {name!r} in the image", name=name)

sys.meta_path.insert(0, OnlyWhatTheImageHas())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("service", sorted(MANIFESTS))
def test_a_service_is_imported_with_nothing_but_what_its_image_installs(service: str) -> None:
    files = [ROOT / "requirements.txt"]
    files += [
        ROOT / f"requirements/requirements.{part}.txt" for part in manifest(service).get("additional_requirements", [])
    ]
    wanted = {_name(line) for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")}
    command = [sys.executable, "-c", BLOCKED_IMPORT, f"complex_system_services.{service}.run", " ".join(sorted(wanted))]
    environment = {**os.environ, "FASTIOT_WITHIN_CONTAINER": "true"}
    done = subprocess.run(command, text=True, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-1500:]


OPTIONAL = {
    ("ml_monitoring", "river"), ("ml_monitoring", "uvloop"), ("ml_serving_mlflow", "pandas"),
}  # fmt: skip
"""Packages that functions import and an image may lack. docs/services/ml_monitoring.md and docs/serving.md say what is missing then;
without uvloop, ``http.server`` runs on Python's own loop."""


def _imported(path: Path) -> Iterator[str]:
    """Whatever a module imports, in functions as well, but not what only type checkers read."""
    tree = ast.parse(path.read_text())
    typing = [n.body for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    left_out = {id(inner) for body in typing for node in body for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _needed(service: str) -> set[str]:
    """Top-level names of the packages of others that a service's process may import."""
    known, waiting, others = set(), [f"complex_system_services.{service}.run"], set()
    while waiting:
        module = waiting.pop()
        path = ROOT / "src" / module.replace(".", "/")
        file = next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)
        if module in known or file is None:
            continue
        known.add(module)
        for name in _imported(file):
            top = name.partition(".")[0]
            if top.startswith("complex_system"):
                waiting.append(name)
            elif top not in sys.stdlib_module_names:
                others.add(top)
    return others


def _installed(requirements: list[str]) -> set[str]:
    """Distributions that these bring along."""
    have: set[str] = set()
    waiting = list(requirements)
    while waiting:
        name = _name(re.split(r"[; (]", waiting.pop())[0])
        if name in have:
            continue
        have.add(name)
        if name != "kioptipack-dataprocessing":  # installed without its dependencies
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                waiting += [line for line in importlib.metadata.requires(name) or [] if "extra ==" not in line]
    return have


@pytest.mark.parametrize("service", sorted(MANIFESTS))
def test_what_a_service_imports_later_is_in_its_image_too(service: str) -> None:
    parts = manifest(service).get("additional_requirements", [])
    files = [ROOT / "requirements.txt", *(ROOT / f"requirements/requirements.{part}.txt" for part in parts)]
    lines = [line for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")]
    have, owners = _installed(lines), importlib.metadata.packages_distributions()
    lacking = {name for name in _needed(service) if not {_name(owner) for owner in owners.get(name, [name])} & have}
    assert lacking == {name for each, name in OPTIONAL if each == service}


def test_no_module_of_a_service_hides_a_package_from_its_container() -> None:
    """FastIoT's images start ``run.py`` by its path, so the service's folder comes first where Python looks."""
    taken = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()}
    modules = sorted(path for path in (ROOT / "src" / "complex_system_services").glob("*/*.py") if path.stem != "__init__")
    assert modules
    assert [str(path.relative_to(ROOT)) for path in modules if path.stem in taken] == []


def test_health_checks_of_services_with_rest_ask_the_port_they_serve() -> None:
    for service in ("ml_serving", "ml_serving_mlflow"):
        content = manifest(service)
        assert f":{content['ports'][0]['port']}/health/ready" in content["healthcheck"]["cmd"]
    for service in set(MANIFESTS) - {"ml_serving", "ml_serving_mlflow"}:
        assert manifest(service)["healthcheck"]["cmd"] == f"python -m complex_system.healthcheck {service}"


def test_package_indexes_reach_the_build() -> None:
    command = build_command(
        Path("Dockerfile.x"), "a/x:1", {"PIP_EXTRA_INDEX_URL": "https://index.example/cpu", "PIP_INDEX_URL": ""}
    )
    assert command[-3:] == ["--build-arg", "PIP_EXTRA_INDEX_URL=https://index.example/cpu", "."]
    assert "--target" in command
    assert not any(word.startswith("PIP_INDEX_URL") for word in command)


def test_building_without_dockerfiles_says_what_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartError, match="fiot build --dry"):
        build_images(tmp_path, "complex_system", ["data_processing"])
    (tmp_path / "build/docker").mkdir(parents=True)
    (tmp_path / "build/docker/Dockerfile.data_processing").touch()
    with pytest.raises(StartError, match="could not be built"):
        build_images(tmp_path, "complex_system")


# Other hosts

HOSTS = ("data", "training", "serving")


def test_the_three_hosts_of_the_documentation_are_deployments(project: Path) -> None:
    for host in HOSTS:
        target = project / "deployments" / host
        shutil.copytree(ROOT / "docs" / "three-hosts" / host, target)
        assert fiot(project, "extras", "init-env", host).returncode == 0
        with (target / ".env").open("a") as file:
            file.write(
                f"COMPLEX_SYSTEM_BIND_ADDRESS=10.0.0.{1 + HOSTS.index(host)}\nMLFLOW_TRACKING_URI=http://10.0.0.2:8080\n"
            )
        done = fiot(project, "config", host)
        assert done.returncode == 0, done.stderr
        done = fiot(project, "deploy", host, "--dry")
        assert done.returncode == 0, done.stderr
        built = project / "build" / "deployments" / host
        assert f"{host}.example.org" in (built / "hosts").read_text()
        assert yaml.safe_load((built / "ansible-playbook.yaml").read_text())[0]["remote_user"] == "deploy"
        ports = [port for service in compose(project, host)["services"].values() for port in service.get("ports", [])]
        assert ports
        assert all(port.startswith("10.0.0.") for port in ports)
    services = {service for host in HOSTS for service in compose(project, host)["services"]}
    assert {*MANIFESTS, "nats", "mongodb", "mlflow"} - services == {"database_maria"}
    assert "MLFLOW_TRACKING_URI" not in compose(project, "serving")["x-env"]
