"""Dashboards, alert rules and scrape configuration beside what the services expose, query by query."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from complex_system.deploy.observability import FILES, SCRAPED, scrape_configuration, write_files
from complex_system.domain.dataset import Dataset
from complex_system.monitoring.alerts.channels import WebhookChannel
from complex_system.monitoring.alerts.evaluation import AlertRules
from complex_system.monitoring.alerts.rules import load_rules
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE
from complex_system.monitoring.points import Figures
from complex_system.monitoring.rest import exposition
from complex_system.pipeline.pipeline import OutsideRange, Pipeline
from complex_system.protocol.collection import CollectionState, Sensor
from complex_system.protocol.database import IngestCounts
from complex_system.service_layer.monitoring.alerting import Alerting
from complex_system.serving.engine import PredictionEngine
from complex_system.serving.metrics import ServingMetrics
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.rest.app import make_app
from models import ManyModels
from monitored import NOW, hear_prediction, hear_truths, new_monitor, see_everything

DATASET = Dataset.load()
GOOD = {"material_id": "00000000", "rohwert_1_labormessung": 3}
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
OF_PROMETHEUS = {"job", "instance", "service"}
"""Labels that the scrape adds."""


def queries() -> Iterator[tuple[str, str]]:
    """Every query with where it stands."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
    for group in yaml.safe_load((FILES / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"rules: {rule['alert']}", rule["expr"]


QUERIES = [pytest.param(query, id=place) for place, query in queries()]


def texts() -> Iterator[tuple[str, str, str]]:
    """Every text that names labels, with its query: legends of the panels, and annotations of the rules."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"], target["legendFormat"]
    for group in yaml.safe_load((FILES / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            for text in rule["annotations"].values():
                yield f"rules: {rule['alert']}", rule["expr"], text


async def of_serving() -> str:
    """What a serving process exposes that has seen one of everything."""
    source = ManyModels(DATASET)
    source.publish("lab-lightgbm", 1.0, champion=True)
    models = ModelManager(source, Pipeline(DATASET))
    await models.refresh()
    metrics, engine = ServingMetrics(models, broker_connected=lambda: True), PredictionEngine(models)
    app = make_app(engine, DATASET, metrics=metrics)
    metrics.compared.labels("far").inc()
    metrics.shadowed.labels("lab-pytorch", "scored").inc()
    engine.outside.add([OutsideRange(DATASET.column("rohwert_1_labormessung").copy(update={"outside": "warn"}), 1, (0,))])
    source.publish("lab-lightgbm", 5.0, champion=True, pipeline_version="000000000000")
    await models.refresh()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://serving") as client:
        assert (await client.post("/predict", json=GOOD)).status_code == 200
        return (await client.get("/metrics")).text


def of_monitoring() -> str:
    """What monitoring exposes that has seen one of everything, with a receiver of alerts."""
    clock = [1000.0]
    monitor = new_monitor(DATASET, clock)
    monitor.flow.ingested(IngestCounts(waiting=3, in_flight=1, dead=2, stopped=("press-4",)))
    monitor.flow.collection = CollectionState(at=NOW, sensors=(Sensor(name="press-4.temperature", age=2.0, silent=True),))
    figures = see_everything(monitor, clock)
    made = [
        {"id": f"far-{i}", "record": {**GOOD, "_id": f"far-{i}"}, "prediction": 100.0, "distance": 2.0} for i in range(60)
    ]
    hear_prediction(monitor, {
        "service": CHAMPIONS_SERVICE, "model": "lab-lightgbm", "version": "1", "pipeline_version": DATASET.version,
        "milliseconds": 4.0, "predictions": made, "half_width": 10.0, "calibrated": 100,
    })  # fmt: skip
    hear_truths(monitor, {"truths": [{"id": each["id"], "truth": 101.0} for each in made]})
    receivers = [WebhookChannel("http://127.0.0.1:9/")]
    alerting = Alerting(AlertRules(load_rules(), DATASET), announce, lambda _: None, channels=receivers)
    return exposition(Figures(figures | monitor.point(alerting.figures(), None))).decode()


async def announce(*_: Any) -> None:
    raise AssertionError("no alert is raised here")


@pytest.fixture(scope="module")
async def exposed() -> dict[str, list[dict[str, str]]]:
    """The labels of every exposed series, by name."""
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for text in (await of_serving(), of_monitoring()):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name].append(sample.labels)
    return found


def selectors(query: str) -> Iterator[promql.VectorSelector]:
    found: list[promql.VectorSelector] = []
    promql.walk(promql.parse(query), lambda each: found.append(each) if isinstance(each, promql.VectorSelector) else None)
    yield from found


def groupings(query: str) -> set[str]:
    """Labels that aggregations keep, and that vectors are matched on."""
    found: set[str] = set()

    def visit(each: promql.Expr) -> None:
        modifier = getattr(each, "modifier", None)
        if isinstance(each, promql.AggregateExpr) and modifier is not None:
            found.update(modifier.labels)
        if isinstance(each, promql.BinaryExpr) and modifier is not None and modifier.matching is not None:
            found.update(modifier.matching.labels)

    promql.walk(promql.parse(query), visit)
    return found


def labels_after(query: str, exposed: Mapping[str, list[dict[str, str]]]) -> set[str]:
    """Labels that the answer of a query may have."""
    whole = {label for each in selectors(query) for series in exposed[each.name] for label in series} | OF_PROMETHEUS
    reduced = re.search(r"\b(sum|max|min|avg|count)\b", query)  # the others that we use, such as topk, keep the labels
    return groupings(query) & whole - {"le"} if reduced else whole


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_asks_for_series_that_a_service_exposes(query: str, exposed: Mapping[str, list[dict[str, str]]]) -> None:
    found = list(selectors(query))
    assert found, query
    for selector in found:
        if selector.name == "up":  # Prometheus' own
            continue
        series = exposed.get(selector.name, [])
        assert series, f"no service exposes {selector.name}"
        wanted = [each for each in selector.matchers.matchers if each.name not in OF_PROMETHEUS]
        for each in wanted:
            assert any(each.name in labels for labels in series), f"{selector.name} has no label {each.name}"
        equal = {each.name: each.value for each in wanted if each.op == promql.MatchOp.Equal}
        assert any(equal.items() <= labels.items() for labels in series), f"no series of {selector.name} has {equal}"
        known = {label for labels in series for label in labels} | OF_PROMETHEUS
        if len(found) == 1:
            assert groupings(query) <= known, query


@pytest.mark.parametrize(("query", "text"), [pytest.param(query, text, id=place) for place, query, text in texts()])
def test_every_text_names_labels_that_the_query_answers(
    query: str, text: str, exposed: Mapping[str, list[dict[str, str]]]
) -> None:
    named = set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", text))
    assert named <= labels_after(query, exposed) | {"value"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_imported_and_its_panels_lie_side_by_side(path: Path) -> None:
    board = json.loads(path.read_text())
    assert len(board["uid"]) <= 40
    [source] = board["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    covered: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not covered & cells, panel["title"]
        covered |= cells
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_the_services_with_metrics_are_scraped_with_their_key() -> None:
    targets = {
        "ml_serving": "ml_serving:8002",
        "ml_monitoring": "ml_monitoring:8003",
        "data_processing": "data_processing:1",
    }
    configuration = scrape_configuration(targets, "/key", "alerts:9093")
    jobs = {job["job_name"]: job for job in configuration["scrape_configs"]}
    assert jobs["serving"]["static_configs"] == [{"targets": ["ml_serving:8002"], "labels": {"service": "ml_serving"}}]
    assert jobs["monitoring"]["authorization"] == {"credentials_file": "/key"}
    assert jobs["serving"]["authorization"] == {"credentials_file": "/key"}
    assert set(jobs) == set(SCRAPED.values())
    assert "authorization" not in scrape_configuration(targets)["scrape_configs"][1]
    assert "alerting" not in scrape_configuration(targets)


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus has promtool")
SERVING = 'job="serving", instance="a:1", service="ml_serving"'
MONITORING = 'job="monitoring", instance="c:1", service="ml_monitoring"'
# Rule, series by values (one a minute), the minute until which it is silent, the minute at which it fires.
CASES: list[tuple[str, dict[str, str], int, int | None]] = [
    ("ServiceDown", {f"up{{{SERVING}}}": "1x5 0x20"}, 5, 8),
    ("NoModel", {f"up{{{SERVING}}}": "1x40"}, 13, 17),
    ("NoModel", {f"up{{{SERVING}}}": "1x40",
                 f'serving_model_loaded_timestamp_seconds{{{SERVING}, champion="true"}}': "1x40"}, 40, None),
    ("ModelRefused", {f'serving_model_refused{{{SERVING}, model="m", version="2", code="c"}}': "1x20"}, 4, 7),
    ("PredictionsFail", {f'serving_requests_total{{{SERVING}, status="200"}}': "0+60x40",
                         f'serving_requests_total{{{SERVING}, status="503"}}': "0x20 0+6x20"}, 20, 35),
    ("PredictionsFail", {f'serving_requests_total{{{SERVING}, status="200"}}': "0+60x40",
                         f'serving_requests_total{{{SERVING}, status="422"}}': "0+60x40"}, 40, None),
    ("PredictionsSlow", {f'serving_request_seconds_bucket{{{SERVING}, route="/predict", le="1"}}': "0+50x40",
                         f'serving_request_seconds_bucket{{{SERVING}, route="/predict", le="5"}}': "0+60x40",
                         f'serving_request_seconds_bucket{{{SERVING}, route="/predict", le="+Inf"}}': "0+60x40"}, 9, 14),
    ("BrokerDisconnected", {f"serving_broker_connected{{{SERVING}}}": "1x5 0x20"}, 5, 8),
    ("PredictionEventsDropped", {f"serving_events_dropped_total{{{SERVING}}}": "0x5 7x20"}, 5, 7),
    ("IngestFallsBehind", {f'monitoring_ingest_waiting{{{MONITORING}, name=""}}': "0+500x60"}, 15, 25),
    ("IngestFallsBehind", {f'monitoring_ingest_waiting{{{MONITORING}, name=""}}': "60000-500x60"}, 60, None),
    ("ReadingsFallBehind", {f'monitoring_collection_behind{{{MONITORING}, name=""}}': "0+2000x60"}, 15, 25),
    ("ReadingsLost", {f'monitoring_collection_dropped{{{MONITORING}, name=""}}': "0x5 7x20"}, 5, 7),
    ("ServiceFails", {f'monitoring_services_failing{{{MONITORING}, name=""}}': "0x5 1x30"}, 14, 17),
    ("AlertsNotDelivered", {f'monitoring_messages_failing_for{{{MONITORING}, name="mailto"}}': "0+60x30"}, 10, 12),
    ("SystemAlert", {f'monitoring_alerts_open{{{MONITORING}, name="critical"}}': "0x5 2x20"}, 5, 7),
    ("SystemAlert", {f'monitoring_alerts_open{{{MONITORING}, name="warning"}}': "2x20"}, 20, None),
]  # fmt: skip


@needs_promtool
def test_the_rules_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    declared = [rule for group in yaml.safe_load((FILES / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
    assert {name for name, *_, fires in CASES if fires} == {rule["alert"] for rule in declared}
    tests = []
    for name, series, silent, fires in CASES:
        firing = f'count(ALERTS{{alertname="{name}", alertstate="firing"}})'
        looks: list[dict[str, Any]] = [{"expr": firing, "eval_time": f"{silent}m", "exp_samples": []}]
        if fires is not None:
            looks.append({"expr": firing, "eval_time": f"{fires}m", "exp_samples": [{"labels": "{}", "value": 1}]})
        inputs = [{"series": each, "values": values} for each, values in series.items()]
        tests.append({"name": name, "interval": "1m", "input_series": inputs, "promql_expr_test": looks})
    path = tmp_path / "tests.yaml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(FILES / "rules.yaml")], "evaluation_interval": "15s", "tests": tests})
    )
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_configuration_and_the_rules(tmp_path: Path) -> None:
    targets = {service: f"{service}:80" for service in SCRAPED}
    (tmp_path / "key").write_text("k")
    write_files(tmp_path, scrape_configuration(targets, str(tmp_path / "key"), "alerts:9093"), "http://prometheus:9090")
    command = ["promtool", "check", "config", str(tmp_path / "prometheus" / "prometheus.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(place.startswith('rules') for place, _ in queries())} rules found" in done.stdout
