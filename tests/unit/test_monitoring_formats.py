"""What others read of monitoring stays as it was: MLflow's metrics, Prometheus' series, REST answers, documents, webhook and alerts.

``monitoring_formats.json`` was written by the release before figures, events and views became types.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.documents import Document
from complex_system.monitoring import views
from complex_system.monitoring.monitor import Monitor
from complex_system.monitoring.points import Figure
from complex_system.monitoring.rest import make_app
from complex_system.protocol.base import to_wire
from complex_system.protocol.serving import ORIGIN_LABELS
from kept import KeptDocuments
from monitored import NOW, host_figures, new_monitor, see_everything

EXPECTED = Path(__file__).with_name("monitoring_formats.json")


async def rest_answers(monitor: Monitor) -> dict[str, Any]:
    period = {"from": NOW - 600, "to": NOW + 60}
    transport = httpx.ASGITransport(make_app(monitor))
    async with httpx.AsyncClient(transport=transport, base_url="http://monitoring") as client:
        answers = {path: (await client.get(f"/api/{path}")).json() for path in ("overview", "models", "data", "alerts")}
        answers |= {path: (await client.get(f"/api/{path}", params=period)).json() for path in ("predictions", "system")}
        named = {**period, "name": "services/ml_serving_mlflow/cpu_percent"}
        answers["metric"] = (await client.get("/api/metric", params=named)).json()
        answers["prometheus"] = (await client.get("/metrics")).text.splitlines()
    return answers


def rounded(value: Any) -> Any:
    """A value with five digits, so that another processor's last bits make no difference; whole numbers as integers."""
    if isinstance(value, dict):
        return {str(key): rounded(each) for key, each in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, float):
        short = float(f"{value:.5g}") if abs(value) < 1e6 else value
        return int(short) if short == int(short) else short
    return value


async def formats(dataset: Dataset) -> dict[str, Any]:
    """Everything that others read of a monitor that has seen everything once."""
    clock, documents = [1000.0], KeptDocuments()
    monitor = new_monitor(dataset, clock)
    await monitor.history.load(documents, NOW)
    metrics = see_everything(monitor, clock).flat()
    await monitor.join.save(documents, NOW + 60)
    await documents.save(monitor.history.changed())
    shown = to_wire(views.snapshot(monitor))
    assert (shown.pop("run_id"), shown.pop("waiting_points")) == (None, 0)  # the service adds them
    kept = [[each.kind, each.key, each.at, each.body] for each in documents.kept.values()]
    answers = await rest_answers(monitor)
    lines = answers.pop("prometheus")
    series = {name: float(value) for name, _, value in (each.rpartition(" ") for each in lines) if not name.startswith("#")}
    whole = {"metrics": metrics, "prometheus": series, "rest": answers, "documents": sorted(kept, key=lambda each: each[:2]),
             "snapshot": shown}  # fmt: skip
    found: dict[str, Any] = json.loads(json.dumps(rounded(whole)))
    return found


def is_pair(row: list[Any]) -> bool:
    """Whether it is a pair of a window or of a sample, which since then ends with the record's key, a window's with its time, too."""
    return len(row) in (2, 5) and all(isinstance(each, int | float) for each in row[:2])


def as_before(value: Any, before: Any) -> Any:
    """Return what others read without what the release before did not have: documents, fields, and the origin at the end of a list."""
    if isinstance(value, dict) and isinstance(before, dict):
        return {name: as_before(value[name], each) for name, each in before.items() if name in value}
    if isinstance(value, list) and isinstance(before, list):
        if value and isinstance(value[0], list) and len(value[0]) == 4 and isinstance(value[0][3], dict):  # documents
            known = [each[:2] for each in before]
            value = [each for each in value if each[:2] in known]
        if len(value) == len(before) + 1 and value[-1] in ORIGIN_LABELS:
            value = value[:-1]
        if (
            is_pair(before)
            and len(value) == len(before) + (1 if isinstance(before[-1], str) else 2)
            and value[-1].startswith("key-")
        ):
            value = value[: len(before)]
        return [as_before(*each) for each in zip(value, before, strict=True)] if len(value) == len(before) else value
    return value


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    for _, key, _, body in found["documents"]:
        if key == "windows":  # of a model without a pair, that is not said any more
            body["pairs"] = [[by, pairs] for by, pairs in body["pairs"] if pairs]
    return found


@pytest.mark.parametrize("part", ["metrics", "prometheus", "rest", "documents", "snapshot"])
async def test_what_others_read_is_as_the_release_before_wrote_it(
    part: str, dataset: Dataset, expected: dict[str, Any]
) -> None:
    assert as_before((await formats(dataset))[part], expected[part]) == expected[part]


async def test_documents_of_the_release_before_are_read(dataset: Dataset, expected: dict[str, Any]) -> None:
    documents = KeptDocuments()
    for kind, key, at, body in expected["documents"]:
        documents.kept[kind, key] = Document(kind, key, at, body)
    restarted = new_monitor(dataset, [1000.0])
    await restarted.join.load(documents, NOW, 3600.0)
    await restarted.history.load(documents, NOW)
    restarted.restore()
    point = restarted.point(host_figures({}), None).flat()
    assert point["performance/rmse"] == pytest.approx(expected["metrics"]["performance/rmse"], rel=1e-4)
    assert point["performance/rmse_relative"] == pytest.approx(expected["metrics"]["performance/rmse_relative"], rel=1e-4)
    answers = rounded(await rest_answers(restarted))
    for view, part in (
        ("alerts", "open"), ("alerts", "past"), ("models", "comparison"), ("models", "champions"), ("data", "raw"),
        ("predictions", "windows"),
    ):  # fmt: skip
        before = expected["rest"][view][part]
        assert as_before(answers[view][part], before) == before, (view, part)
    assert answers["metric"] == expected["rest"]["metric"]
    assert answers["predictions"]["waiting"] == 10


def test_a_flat_name_becomes_the_figure_that_it_was_made_of(expected: dict[str, Any]) -> None:
    figures = (
        Figure("m"),
        Figure("drift/psi", "a/b c"),
        Figure("services/silent", "ml_serving"),
        Figure("services/silent"),
        Figure("services/cpu_percent", "ml_serving"),
        Figure("performance/rmse", "ml_serving"),
        Figure("performance/shadow/rmse", "of/two parts"),
    )
    assert [Figure.parse(figure.flat) for figure in figures] == list(figures)
    assert all(Figure.parse(name).flat == name for name in expected["metrics"])
