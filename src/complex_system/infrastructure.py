"""Extensions of FastIoT's command line: the servers and services of a deployment, the templates of images and compose files.

A class with the name of one of FastIoT's servers replaces it. Importing this module registers everything.
"""

from __future__ import annotations

import complex_system.messaging  # noqa: F401 - FastIoT with our mends, before anything else imports it

# isort: split
from pathlib import Path
from typing import Any

from fastiot.cli.common.infrastructure_services import MariaDBService, MongoDBService, NatsService
from fastiot.cli.helper_fn import get_jinja_env
from fastiot.cli.model.deployment import DeploymentConfig
from fastiot.cli.model.docker_template import DockerTemplate
from fastiot.cli.model.infrastructure_service import (
    InfrastructureService,
    InfrastructureServiceComposeExtras,
    InfrastructureServiceEnvVar,
    InfrastructureServicePort,
    InfrastructureServiceVolume,
)
from fastiot.cli.model.project import ProjectContext
from jinja2 import ChoiceLoader, FileSystemLoader

from complex_system.deploy import ACCOUNTS_FILE, COLLECTION, MLFLOW_SCRIPT, USERS_FILE, declares_collection
from complex_system.deploy.observability import KEY_FILE, PROMETHEUS_PORT
from complex_system.local.mlflow_server import COLLECT_SECONDS

TEMPLATES = Path(__file__).parent / "deploy" / "templates"
MLFLOW_PORT = 8080


def _health(test: str, start_period: int = 60) -> InfrastructureServiceComposeExtras:
    """Return a health check that runs a shell command of the image; ``$`` must be doubled for docker-compose."""
    text = f'{{test: ["CMD-SHELL", "{test}"], interval: 10s, timeout: 5s, retries: 6, start_period: {start_period}s}}'
    return InfrastructureServiceComposeExtras(option_name="healthcheck", default_value=text)


def _command(*parts: str) -> InfrastructureServiceComposeExtras:
    text = ", ".join(f'"{part}"' for part in parts)
    return InfrastructureServiceComposeExtras(option_name="command", default_value=f"[{text}]")


_NATS_HEALTH = (
    "wget -q -O /dev/null http://127.0.0.1:8222/healthz && exit; "
    # After a full disk a stream takes messages again when the broker has started again: it ends as soon as there are 64 MB.
    "(echo GET /healthz HTTP/1.0; echo) | nc 127.0.0.1 8222 | grep -q 'write error' && "
    "[ $$(df -P /data | awk 'END {print $$4}') -gt 65536 ] && kill 1; "
    # The public image has busybox's wget and nc, and no bash; an image of one's own on Debian has bash.
    "bash -c '</dev/tcp/127.0.0.1/8222'"
)

# Pydantic copies defaults, so lists as class attributes are safe here.
# ruff: noqa: RUF012


class NatsBroker(NatsService):
    """NATS with JetStream on disk, configured by the deployment's ``nats.conf`` and the users that `fiot config` generates."""

    image: str = "nats:2.15-alpine"
    environment: list[InfrastructureServiceEnvVar] = [
        # Go collects garbage before the container's limit ends the process.
        InfrastructureServiceEnvVar(name="GOMEMLIMIT", default="900MiB", env_var="COMPLEX_SYSTEM_NATS_GO_MEMORY")
    ]
    volumes: list[InfrastructureServiceVolume] = [
        InfrastructureServiceVolume(container_volume="/data", env_var="COMPLEX_SYSTEM_NATS_VOLUME"),
        InfrastructureServiceVolume(
            container_volume="/etc/nats/nats.conf:ro",
            env_var="COMPLEX_SYSTEM_NATS_CONF",
            default_volume_mount="./nats.conf",
            tmpfs_for_tests=False,
        ),
        InfrastructureServiceVolume(
            container_volume=f"/etc/nats/{USERS_FILE}:ro",
            env_var="COMPLEX_SYSTEM_NATS_USERS",
            default_volume_mount=f"./{USERS_FILE}",
            tmpfs_for_tests=False,
        ),
        InfrastructureServiceVolume(
            container_volume="/etc/nats/certs:ro",
            env_var="COMPLEX_SYSTEM_NATS_CERTS",
            default_volume_mount="",
            tmpfs_for_tests=False,
        ),
    ]
    compose_extras: list[InfrastructureServiceComposeExtras] = [
        _command("--config", "/etc/nats/nats.conf"),
        _health(_NATS_HEALTH),
    ]


class MongoDatabase(MongoDBService):
    """A supported MongoDB; FastIoT's own is past its end of life and has a default password."""

    image: str = "mongo:8.0"
    environment: list[InfrastructureServiceEnvVar] = [
        InfrastructureServiceEnvVar(name="MONGO_INITDB_ROOT_USERNAME", default="root", env_var="FASTIOT_MONGO_DB_USER"),
        InfrastructureServiceEnvVar(name="MONGO_INITDB_ROOT_PASSWORD", default="", env_var="FASTIOT_MONGO_DB_PASSWORD"),
    ]
    compose_extras: list[InfrastructureServiceComposeExtras] = [
        *MongoDBService.__fields__["compose_extras"].default,
        # Not on loopback, where the temporary server that creates the first user listens.
        _health("bash -c '</dev/tcp/$$HOSTNAME/27017'"),
    ]


class MariaDatabase(MariaDBService):
    """A supported MariaDB with a user that may use the project's database only."""

    image: str = "mariadb:11.4"
    environment: list[InfrastructureServiceEnvVar] = [
        InfrastructureServiceEnvVar(name="MARIADB_DATABASE", default="KIOptiPackDb", env_var="COMPLEX_SYSTEM_MARIA_NAME"),
        InfrastructureServiceEnvVar(name="MARIADB_USER", default="complex_system", env_var="FASTIOT_MARIA_DB_USER"),
        InfrastructureServiceEnvVar(name="MARIADB_PASSWORD", default="", env_var="FASTIOT_MARIA_DB_PASSWORD"),
        InfrastructureServiceEnvVar(name="MARIADB_ROOT_PASSWORD", default="", env_var="COMPLEX_SYSTEM_MARIA_ROOT_PASSWORD"),
        InfrastructureServiceEnvVar(name="MARIADB_INITDB_SKIP_TZINFO", default="yes"),
    ]
    compose_extras: list[InfrastructureServiceComposeExtras] = [
        _command("--max-allowed-packet=64M"),
        # Over TCP, which the temporary server that creates database and users does not offer.
        _health(
            "MYSQL_PWD=$$MARIADB_PASSWORD mariadb-admin --protocol=tcp --host=127.0.0.1 --user=$$MARIADB_USER ping",
            start_period=120,
        ),
    ]


class MlflowService(InfrastructureService):
    """MLflow's server in one process, with accounts, and runs in a database; it serves the artifacts, too.

    Beside it a second process frees the room of monitoring's deleted runs.

    Services read ``MLFLOW_TRACKING_URI``, which the compose file makes of host and port. The defaults suit one host: SQLite and
    files in one volume. ``docs/deployment.md`` shows PostgreSQL and S3.
    """

    name: str = "mlflow"
    image: str = "ghcr.io/mlflow/mlflow:v3.17.2-full"  # the image without -full lacks the packages for accounts
    host_name_env_var: str = "COMPLEX_SYSTEM_MLFLOW_HOST"
    ports: list[InfrastructureServicePort] = [
        InfrastructureServicePort(
            container_port=MLFLOW_PORT, default_port_mount=MLFLOW_PORT, env_var="COMPLEX_SYSTEM_MLFLOW_PORT"
        )
    ]
    environment: list[InfrastructureServiceEnvVar] = [
        InfrastructureServiceEnvVar(
            name="MLFLOW_BACKEND_STORE_URI", default="sqlite:////mlflow/mlflow.db", env_var="COMPLEX_SYSTEM_MLFLOW_STORE"
        ),
        InfrastructureServiceEnvVar(
            name="MLFLOW_ARTIFACTS_DESTINATION", default="/mlflow/artifacts", env_var="COMPLEX_SYSTEM_MLFLOW_ARTIFACTS"
        ),
        InfrastructureServiceEnvVar(name="MLFLOW_WORKERS", default="1", env_var="COMPLEX_SYSTEM_MLFLOW_WORKERS"),
        # MLflow refuses requests under other host names, as a protection against DNS rebinding.
        InfrastructureServiceEnvVar(
            name="MLFLOW_SERVER_ALLOWED_HOSTS",
            default="mlflow,mlflow:*,localhost,localhost:*,127.0.0.1,127.0.0.1:*",
            env_var="COMPLEX_SYSTEM_MLFLOW_ALLOWED_HOSTS",
        ),
        InfrastructureServiceEnvVar(name="MLFLOW_DISABLE_TELEMETRY", default="true"),
        InfrastructureServiceEnvVar(name="MLFLOW_SERVER_ENABLE_JOB_EXECUTION", default="false"),
        InfrastructureServiceEnvVar(
            name="MLFLOW_AUTH_ADMIN_USERNAME", default="complex_system", env_var="MLFLOW_TRACKING_USERNAME"
        ),
        InfrastructureServiceEnvVar(name="MLFLOW_AUTH_ADMIN_PASSWORD", default="", env_var="MLFLOW_TRACKING_PASSWORD"),
        InfrastructureServiceEnvVar(
            name="MLFLOW_FLASK_SERVER_SECRET_KEY", default="", env_var="COMPLEX_SYSTEM_MLFLOW_SECRET_KEY"
        ),
        InfrastructureServiceEnvVar(name="MLFLOW_AUTH_CONFIG_PATH", default=f"/etc/mlflow/{ACCOUNTS_FILE}"),
    ]
    volumes: list[InfrastructureServiceVolume] = [
        InfrastructureServiceVolume(container_volume="/mlflow", env_var="COMPLEX_SYSTEM_MLFLOW_VOLUME"),
        InfrastructureServiceVolume(
            container_volume=f"/etc/mlflow/{ACCOUNTS_FILE}:ro",
            env_var="COMPLEX_SYSTEM_MLFLOW_ACCOUNTS",
            default_volume_mount=f"./{ACCOUNTS_FILE}",
            tmpfs_for_tests=False,
        ),
        InfrastructureServiceVolume(
            container_volume=f"/etc/mlflow/{MLFLOW_SCRIPT}:ro",
            env_var="COMPLEX_SYSTEM_MLFLOW_SCRIPT",
            default_volume_mount=f"./{MLFLOW_SCRIPT}",
            tmpfs_for_tests=False,
        ),
    ]
    compose_extras: list[InfrastructureServiceComposeExtras] = [
        _command(
            "sh",
            "-c",
            f"python -I /etc/mlflow/{MLFLOW_SCRIPT} {COLLECT_SECONDS} & "
            f"exec mlflow server --app-name basic-auth --host 0.0.0.0 --port {MLFLOW_PORT}",
        ),
        _health(
            f"python -c 'import urllib.request as u; u.urlopen(\\\"http://127.0.0.1:{MLFLOW_PORT}/health\\\", timeout=4)'",
            start_period=180,
        ),
    ]


_AS_ROOT = InfrastructureServiceComposeExtras(option_name="user", default_value='"0:0"')
"""Without capabilities, as all containers; the users of the public images could not write to a folder of the host."""


class PrometheusService(InfrastructureService):
    """Prometheus, which scrapes the deployment's services and judges the shipped rules; only where a deployment names it."""

    name: str = "prometheus"
    image: str = "prom/prometheus:v3.5.0"
    host_name_env_var: str = "COMPLEX_SYSTEM_PROMETHEUS_HOST"
    ports: list[InfrastructureServicePort] = [
        InfrastructureServicePort(
            container_port=PROMETHEUS_PORT, default_port_mount=PROMETHEUS_PORT, env_var="COMPLEX_SYSTEM_PROMETHEUS_PORT"
        )
    ]
    environment: list[InfrastructureServiceEnvVar] = [
        InfrastructureServiceEnvVar(name="API_KEY", default="", env_var="COMPLEX_SYSTEM_API_KEY"),
        InfrastructureServiceEnvVar(name="KEPT", default="30d", env_var="COMPLEX_SYSTEM_PROMETHEUS_KEPT"),
    ]
    volumes: list[InfrastructureServiceVolume] = [
        InfrastructureServiceVolume(container_volume="/prometheus", env_var="COMPLEX_SYSTEM_PROMETHEUS_VOLUME"),
        InfrastructureServiceVolume(
            container_volume="/etc/prometheus:ro",
            env_var="COMPLEX_SYSTEM_PROMETHEUS_CONFIGURATION",
            default_volume_mount="./prometheus",
            tmpfs_for_tests=False,
        ),
    ]
    compose_extras: list[InfrastructureServiceComposeExtras] = [
        _AS_ROOT,
        # The key is in memory only: Prometheus reads it from a file, and its configuration is readable for everybody.
        InfrastructureServiceComposeExtras(
            option_name="entrypoint",
            default_value=(
                f'["sh", "-c", "umask 077 && printf %s \\"$$API_KEY\\" >{KEY_FILE} && unset API_KEY && exec prometheus '
                '--config.file=/etc/prometheus/prometheus.yaml --storage.tsdb.path=/prometheus --storage.tsdb.retention.time=$$KEPT"]'
            ),
        ),
        _health(f"wget -q -O /dev/null http://127.0.0.1:{PROMETHEUS_PORT}/-/healthy"),
    ]


class GrafanaService(InfrastructureService):
    """Grafana with the shipped dashboards over the deployment's Prometheus; only where a deployment names it."""

    name: str = "grafana"
    image: str = "grafana/grafana:12.4.0"
    host_name_env_var: str = "COMPLEX_SYSTEM_GRAFANA_HOST"
    ports: list[InfrastructureServicePort] = [
        InfrastructureServicePort(container_port=3000, default_port_mount=3000, env_var="COMPLEX_SYSTEM_GRAFANA_PORT")
    ]
    environment: list[InfrastructureServiceEnvVar] = [
        InfrastructureServiceEnvVar(
            name="GF_SECURITY_ADMIN_PASSWORD", default="", env_var="COMPLEX_SYSTEM_GRAFANA_PASSWORD"
        ),
        InfrastructureServiceEnvVar(
            name="GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH", default="/etc/grafana/dashboards/overview.json"
        ),
        InfrastructureServiceEnvVar(name="GF_LOG_MODE", default="console"),
        InfrastructureServiceEnvVar(name="GF_ANALYTICS_REPORTING_ENABLED", default="false"),
        InfrastructureServiceEnvVar(name="GF_ANALYTICS_CHECK_FOR_UPDATES", default="false"),
        InfrastructureServiceEnvVar(name="GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES", default="false"),
        InfrastructureServiceEnvVar(name="GF_PLUGINS_PREINSTALL_DISABLED", default="true"),
    ]
    volumes: list[InfrastructureServiceVolume] = [
        InfrastructureServiceVolume(container_volume="/var/lib/grafana", env_var="COMPLEX_SYSTEM_GRAFANA_VOLUME"),
        InfrastructureServiceVolume(
            container_volume="/etc/grafana/provisioning:ro",
            env_var="COMPLEX_SYSTEM_GRAFANA_PROVISIONING",
            default_volume_mount="./grafana/provisioning",
            tmpfs_for_tests=False,
        ),
        InfrastructureServiceVolume(
            container_volume="/etc/grafana/dashboards:ro",
            env_var="COMPLEX_SYSTEM_GRAFANA_DASHBOARDS",
            default_volume_mount="./grafana/dashboards",
            tmpfs_for_tests=False,
        ),
    ]
    compose_extras: list[InfrastructureServiceComposeExtras] = [
        _AS_ROOT,
        _health("wget -q -O /dev/null http://127.0.0.1:3000/api/health"),
    ]


def _ray_node(*options: str) -> list[InfrastructureServiceComposeExtras]:
    """Return what a node of Ray's cluster runs: on the container's address, with fixed ports, and without a dashboard."""
    common = "--node-ip-address=$$(hostname -i | cut -d' ' -f1) --node-manager-port=6380 --object-manager-port=6381 --block"
    return [
        _command("sh", "-c", f"exec ray start {' '.join(options)} {common}"),
        InfrastructureServiceComposeExtras(option_name="shm_size", default_value="1g"),
        _health("bash -c '</dev/tcp/$$HOSTNAME/6380'"),
    ]


_OF_RAY = [
    InfrastructureServiceEnvVar(name="RAY_AUTH_MODE", default="token"),
    InfrastructureServiceEnvVar(name="RAY_AUTH_TOKEN", default="", env_var="RAY_AUTH_TOKEN"),
    InfrastructureServiceEnvVar(name="RAY_USAGE_STATS_ENABLED", default="0"),
]


class RayHeadService(InfrastructureService):
    """The head of a Ray cluster that trains, which runs nothing itself; only where a deployment names it.

    Its ports are not published. The image has what all trainers need (``make images CLUSTER=1``).
    """

    name: str = "ray_head"
    image: str = "complex_system/ray:latest"
    host_name_env_var: str = "COMPLEX_SYSTEM_RAY_HEAD_HOST"
    environment: list[InfrastructureServiceEnvVar] = _OF_RAY
    compose_extras: list[InfrastructureServiceComposeExtras] = _ray_node(
        "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false", "--object-store-memory=100000000"
    )


class RayWorkerService(InfrastructureService):
    """A node of that cluster with the CPUs in ``COMPLEX_SYSTEM_RAY_NODE_CPUS``; docker-compose's ``--scale`` makes more of them."""

    name: str = "ray_worker"
    image: str = "complex_system/ray:latest"
    host_name_env_var: str = "COMPLEX_SYSTEM_RAY_WORKER_HOST"
    environment: list[InfrastructureServiceEnvVar] = [
        *_OF_RAY,
        InfrastructureServiceEnvVar(name="RAY_NODE_CPUS", default="2", env_var="COMPLEX_SYSTEM_RAY_NODE_CPUS"),
    ]
    compose_extras: list[InfrastructureServiceComposeExtras] = _ray_node(
        "--address=ray_head:6379", "--num-cpus=$$RAY_NODE_CPUS", "--object-store-memory=512000000"
    )


class ServiceImage(DockerTemplate):
    """The Dockerfile of our services; a manifest selects it with ``template: complex_system``."""

    name: str = "complex_system"
    dir: str = str(TEMPLATES)
    filename: str = "Dockerfile.complex_system.j2"


class ProjectImage(ServiceImage):
    """The same for services of a project's own, whose manifest names no template; FastIoT's default knows nothing of this package."""

    name: str = "python3"


def _container(name: str) -> Any:
    from complex_system.deploy.containers import container  # imports the subjects, which other commands need not wait for

    return container(name)


def _prefer_our_templates() -> None:
    """Make FastIoT find our compose template before its own, and the template what each container may do."""
    environment = get_jinja_env()
    environment.globals["container"] = _container
    environment.loader = ChoiceLoader([FileSystemLoader(str(TEMPLATES)), environment.loader])


def _add_collection() -> None:
    """Make every command see the service that collects readings in the deployments that declare it, and in no other."""
    read = ProjectContext.deployment_by_name

    def deployment_by_name(self: ProjectContext, name: str) -> DeploymentConfig:
        config = read(self, name)
        if COLLECTION not in config.services and declares_collection(Path(self.deployment_dir(name)) / config.config_dir):
            config.services[COLLECTION] = None
        return config

    ProjectContext.deployment_by_name = deployment_by_name


_prefer_our_templates()
_add_collection()
