"""The shipped dashboards in a Grafana over a Prometheus: they are loaded, and the query of every panel is accepted."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from complex_system.deploy.observability import FILES, PROMETHEUS_PORT, scrape_configuration, write_files
from complex_system.local.servers import HOST, free_port
from verify.images import DockerError, Image, Run, docker

PATIENCE = 120.0
SOURCE = {"type": "prometheus", "uid": "prometheus"}
BROKEN = "sum(rate("


class RefusedError(Exception):
    """Grafana refused something; the message says what."""


def queries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the queries of all panels as Grafana's page sends them, with dashboard and title."""
    for path in sorted((FILES / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                query = {**target, "datasource": SOURCE, "intervalMs": 15_000, "maxDataPoints": 500}
                yield f"{dashboard['title']}: {panel.get('title') or panel['id']}", query


def prove(run: Run, prometheus: Image, grafana: Image, say: Callable[[str], None]) -> str:
    """Start both, load the dashboards, and send every query; return what was seen.

    Raises:
        RefusedError: A dashboard is not there, or a query was refused.
        DockerError: A container does not start.
    """
    folder, network, password = run.folder / "observability", run.network(), secrets.token_hex(12)
    write_files(folder, scrape_configuration({}), f"http://prometheus:{PROMETHEUS_PORT}")
    ports = {"prometheus": free_port(), "grafana": free_port()}
    names = [
        run.container(
            "prometheus", prometheus.reference, f"--network={network}", "--network-alias=prometheus", "--user=0:0",
            "--entrypoint=prometheus", f"--publish={HOST}:{ports['prometheus']}:{PROMETHEUS_PORT}", "--volume=/prometheus",
            f"--volume={folder}/prometheus:/etc/prometheus:ro",
            command=("--config.file=/etc/prometheus/prometheus.yaml", "--storage.tsdb.path=/prometheus"),
        )
    ]  # fmt: skip
    try:
        with httpx.Client(timeout=30, trust_env=False, auth=("admin", password)) as http:
            built = _answer(http, f"http://{HOST}:{ports['prometheus']}/api/v1/status/buildinfo", names[0])
            prometheus.heard(built["data"]["version"])
            say(f"Prometheus {prometheus.version} answers")
            given = {
                "GF_SECURITY_ADMIN_PASSWORD": password, "GF_ANALYTICS_REPORTING_ENABLED": "false",
                "GF_ANALYTICS_CHECK_FOR_UPDATES": "false", "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
                "GF_PLUGINS_PREINSTALL_DISABLED": "true",
            }  # fmt: skip
            names.append(
                run.container(
                    "grafana", grafana.reference, f"--network={network}", "--user=0:0", f"--publish={HOST}:{ports['grafana']}:3000",
                    "--volume=/var/lib/grafana", f"--volume={folder}/grafana/provisioning:/etc/grafana/provisioning:ro",
                    f"--volume={folder}/grafana/dashboards:/etc/grafana/dashboards:ro",
                    *(f"--env={name}={value}" for name, value in given.items()),
                )
            )  # fmt: skip
            address = f"http://{HOST}:{ports['grafana']}"
            grafana.heard(_answer(http, f"{address}/api/health", names[1])["version"])
            say(f"Grafana {grafana.version} answers")
            return _dashboards(http, address) + "; " + _panels(http, address)
    finally:
        docker("rm", "--force", "--volumes", *names)


def _answer(http: httpx.Client, url: str, container: str) -> dict[str, Any]:
    """Return what a server says as soon as it answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = http.get(url)
            if answer.status_code == httpx.codes.OK:
                found: dict[str, Any] = answer.json()
                return found
            said = answer.text
        except httpx.HTTPError as error:
            said = str(error)
        if time.monotonic() > deadline:
            log = docker("logs", "--tail", "10", container)
            raise DockerError(f"{url} did not answer within {PATIENCE:.0f} s: {said[:200]}\n{log}")
        time.sleep(0.5)


def _dashboards(http: httpx.Client, address: str) -> str:
    shipped = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((FILES / "dashboards").glob("*.json"))]
    wanted = {each["uid"] for each in shipped}
    deadline = time.monotonic() + PATIENCE
    while missing := wanted - {each["uid"] for each in http.get(f"{address}/api/search", params={"type": "dash-db"}).json()}:
        if time.monotonic() > deadline:
            raise RefusedError(f"Dashboards that are not there: {', '.join(sorted(missing))}")
        time.sleep(0.5)
    for each in shipped:
        kept = http.get(f"{address}/api/dashboards/uid/{each['uid']}").json()["dashboard"]
        if len(kept["panels"]) != len(each["panels"]):
            raise RefusedError(f"{each['title']} has {len(kept['panels'])} panels of {len(each['panels'])}")
    health = http.get(f"{address}/api/datasources/uid/prometheus/health").json()
    if health.get("status") != "OK":
        raise RefusedError(f"The data source: {health}")
    return f"{len(shipped)} dashboards with {sum(len(each['panels']) for each in shipped)} panels loaded, data source well"


def _panels(http: httpx.Client, address: str) -> str:
    if refusal(http, address, {"refId": "A", "datasource": SOURCE, "expr": BROKEN, "instant": True}) is None:
        raise RefusedError(f"Grafana accepts '{BROKEN}' too, so that it says nothing that it accepts the others")
    sent, refused = 0, []
    for title, query in queries():
        sent += 1
        if why := refusal(http, address, query):
            refused.append(f"{title}: {query['expr']}: {why}")
    if refused:
        raise RefusedError(f"{len(refused)} of {sent} queries are refused:\n" + "\n".join(refused))
    return f"{sent} queries accepted, and a broken one refused"


def refusal(http: httpx.Client, address: str, query: dict[str, Any]) -> str | None:
    """Send a panel's query; return why Grafana, or Prometheus behind it, refuses it, and None if they do not."""
    answer = http.post(f"{address}/api/ds/query", json={"queries": [query], "from": "now-1h", "to": "now"})
    result = answer.json().get("results", {}).get(query["refId"], {})
    if answer.status_code != httpx.codes.OK or result.get("error") or "frames" not in result:
        return str(result.get("error") or answer.text[:300])
    return None
