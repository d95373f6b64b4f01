"""Files for Prometheus and Grafana: what is scraped with which key, alert rules, dashboards and the data source.

Dashboards and rules are in ``templates/observability``, once; each deployment gets a copy beside its compose file, or where somebody
with a Prometheus of their own wants one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

FILES = Path(__file__).parent / "templates" / "observability"
SCRAPED = {"ml_serving_mlflow": "serving", "ml_serving": "serving", "ml_monitoring": "monitoring"}
"""Services with an endpoint ``/metrics``, and the job that they belong to."""
KEY_FILE = "/tmp/api_key"  # noqa: S108 - in the container, in memory
INTERVAL = "15s"
PROMETHEUS_PORT = 9090


def scrape_configuration(targets: Mapping[str, str], key_file: str = "", alertmanager: str = "") -> dict[str, Any]:
    """Return the content of ``prometheus.yaml``.

    Args:
        targets: Host and port by service.
        key_file: File with the API key, as Prometheus sees it; empty where the services have none.
        alertmanager: Host and port of an Alertmanager; empty for none.
    """
    jobs = []
    for job in dict.fromkeys(SCRAPED.values()):
        mine = {service: address for service, address in targets.items() if SCRAPED.get(service) == job}
        if not mine:
            continue
        entries = [{"targets": [address], "labels": {"service": service}} for service, address in mine.items()]
        key = {"authorization": {"credentials_file": key_file}} if key_file else {}
        jobs.append({"job_name": job, **key, "static_configs": entries})
    # The evaluation keeps pace with the scrapes, so that no rule looks at a value twice.
    configuration = {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["rules.yaml"],
        "scrape_configs": jobs,
    }
    if alertmanager:
        configuration["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return configuration


def write_files(folder: Path, configuration: Mapping[str, Any], prometheus_url: str) -> None:
    """Write ``prometheus/`` and ``grafana/`` into a folder.

    Args:
        folder: With the compose file, or wherever somebody wants them.
        configuration: From :func:`scrape_configuration`.
        prometheus_url: Where Grafana finds Prometheus.
    """
    source = {
        "apiVersion": 1,
        "datasources": [
            {"name": "Prometheus", "uid": "prometheus", "type": "prometheus", "access": "proxy", "url": prometheus_url,
             "isDefault": True, "editable": False, "jsonData": {"timeInterval": INTERVAL}},
        ],
    }  # fmt: skip
    places = {
        "apiVersion": 1,
        "providers": [
            {"name": "complex-system", "type": "file", "allowUiUpdates": False, "options": {"path": "/etc/grafana/dashboards"}},
        ],
    }  # fmt: skip
    generated = {
        "prometheus/prometheus.yaml": configuration,
        "grafana/provisioning/datasources/prometheus.yaml": source,
        "grafana/provisioning/dashboards/files.yaml": places,
    }
    for name, content in generated.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"# Generated, see docs/monitoring.md.\n{yaml.safe_dump(dict(content), sort_keys=False)}", encoding="utf-8"
        )
    shutil.copyfile(FILES / "rules.yaml", folder / "prometheus" / "rules.yaml")
    shutil.copytree(FILES / "dashboards", folder / "grafana" / "dashboards", dirs_exist_ok=True)


def write_deployment_files(
    folder: Path, services: Iterable[str], compose: Mapping[str, Any], environment: Mapping[str, str]
) -> None:
    """Write what the containers of Prometheus and Grafana read, where the deployment has one of them.

    Args:
        folder: Of the built deployment.
        services: The deployment's own services.
        compose: The content of its compose file.
        environment: Its ``.env``.
    """
    containers = compose["services"]
    if not {"prometheus", "grafana"} & set(containers):
        return
    ports = {service: _port_of(containers[service]) for service in services if service in SCRAPED}
    targets = {service: f"{service}:{port}" for service, port in ports.items()}
    configuration = scrape_configuration(targets, KEY_FILE, environment.get("COMPLEX_SYSTEM_ALERTMANAGER", ""))
    host = "prometheus" if "prometheus" in containers else environment.get("COMPLEX_SYSTEM_PROMETHEUS_HOST", "prometheus")
    write_files(folder, configuration, f"http://{host}:{PROMETHEUS_PORT}")


def _port_of(container: Mapping[str, Any]) -> str:
    """Return the port that a service listens on inside of its container."""
    return str(container["ports"][0]).rsplit(":", 1)[1]
