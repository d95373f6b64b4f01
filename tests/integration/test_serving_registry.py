"""Models by name from a real registry, other people's models, challengers in the shadow, Arrow pages, and swaps under load."""

from __future__ import annotations

import ast
import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import Page, decode_page, encode_page, raw_schema
from complex_system.errors import (
    InternalError,
    InvalidRecordError,
    InvalidRequestError,
    TooLargeError,
    UnsupportedByModelError,
)
from complex_system.local.servers import Server
from complex_system.messaging.clients import ServingClient
from complex_system.messaging.subjects import PREDICT, event_subject
from complex_system.protocol.base import Request
from complex_system.protocol.serving import EXPLAIN, PREDICT_COLUMNS, PREDICTION_MADE, ExplainRequest, PredictionMade
from complex_system.protocol.training import CHAMPION_CHANGED, ChampionChanged
from complex_system.serving.models import foreign
from complex_system.serving.models.foreign import ForeignRuntime, ModelInput
from complex_system.serving.requests.examples import example_record
from complex_system.settings import Settings
from complex_system.tracking.model_files import SAMPLE_FILE
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from models import crown, delete_version_as_older_servers, quick_files
from support import TesterService, eventually, running
from trainings import quick_sample

# MLflow's client and the libraries below it warn of their own deprecated parts, and its flavors of what they save.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

R1, R2, R3 = (f"rohwert_{i}_labormessung" for i in (1, 2, 3))


@pytest.fixture
def settings(nats_server: Server, mlflow_server: Server, make_settings: Callable[..., Settings], prefix: str) -> Settings:
    return make_settings(nats_server, mlflow_server, model_prefix=prefix, serving_mlflow_port=0, model_poll_interval=0.2)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[MlServingMlflowService, httpx.AsyncClient]]:
    async with (
        running(MlServingMlflowService, settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=30) as client,
    ):

        async def is_ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(is_ready)
        yield service, client


def columns(records: list[dict[str, Any]]) -> dict[str, Any]:
    texts = ("material_id", "laborant")
    return {
        "inputs": [
            {
                "name": name,
                "shape": [len(records)],
                "datatype": "BYTES" if name in texts else "FP64",
                "data": [record[name] for record in records],
            }
            for name in (*texts, R1, R2, R3)
        ]
    }


async def test_every_model_of_the_registry_is_served_by_name_version_and_alias(
    settings: Settings, publish: Any, laboratory: Laboratory
) -> None:
    first = await asyncio.to_thread(publish, 100.0)
    await asyncio.to_thread(publish, 200.0, champion=False)
    other = await asyncio.to_thread(publish, 300.0, trainer="pytorch", champion=False)
    records = [laboratory.complete_record() for _ in range(2)]
    async with serving(settings) as (service, client):
        base = [float(row.sum()) for row in service.pipeline.features(records)]
        for path, bias in (
            ("champion", 100.0),
            (first[0], 200.0),
            (f"{first[0]}/versions/1", 100.0),
            (f"{first[0]}/versions/champion", 100.0),
            (other[0], 300.0),
        ):
            answer = await client.post(f"/v2/models/{path}/infer", json=columns(records))
            assert answer.status_code == 200, answer.text
            assert answer.json()["outputs"][0]["data"] == pytest.approx([bias + value for value in base], rel=1e-5)
        for path in ("nobody", f"{first[0]}/versions/77", f"{first[0]}/versions/nobody", "%27%20OR%20%27"):
            assert (await client.get(f"/v2/models/{path}")).status_code == 404, path
        status = (await client.get("/models")).json()
        assert {each["name"]: each["newest"] for each in status["models"]} == {first[0]: "2", other[0]: "1"}
        # The name follows what is registered next.
        await asyncio.to_thread(publish, 400.0, trainer="pytorch", champion=False)

        async def is_newer() -> bool:
            answer = await client.post(f"/v2/models/{other[0]}/infer", json=columns(records))
            return bool(answer.json()["model_version"] == "2")

        await eventually(is_newer)


async def test_a_champion_that_is_deleted_in_mlflow_stays_loaded_until_there_is_another(
    settings: Settings, publish: Any, mlflow_server: Server
) -> None:
    first = await asyncio.to_thread(publish, 100.0)
    await asyncio.to_thread(publish, 200.0, champion=False)
    async with serving(settings) as (service, client):
        record = example_record(service.pipeline.dataset)
        before = (await client.post("/predict", json=record)).json()["predictions"]
        await asyncio.to_thread(delete_version_as_older_servers, mlflow_server, *first)

        async def is_said() -> bool:
            return "was it deleted?" in ((await client.get("/models")).json()["champion"]["source_problem"] or "")

        await eventually(is_said)
        assert (await client.post("/predict", json=record)).json()["predictions"] == before
        assert (await client.get("/readyz")).status_code == 200
        third = await asyncio.to_thread(publish, 300.0, trainer="pytorch")

        async def is_new() -> bool:
            status = (await client.get("/models")).json()["champion"]
            return bool(status["model"]["name"] == third[0] and status["source_problem"] is None)

        await eventually(is_new)
    async with running(MlServingMlflowService, settings) as again:  # started anew, it finds the new champion
        await eventually(lambda: again.models.champion.current is not None)


def register_foreign(url: str, name: str, dataset: Dataset, *, signature: bool = True, loader: str = "") -> float:
    """Registers a scikit-learn model that nobody here trained, and returns its intercept."""
    import mlflow
    import mlflow.sklearn
    import yaml
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    mlflow.set_tracking_uri(url)
    mlflow.set_registry_uri(url)
    import pandas as pd

    names = list(dataset.feature_names)
    frame = pd.DataFrame(np.random.default_rng(1).random((40, len(names))), columns=names)
    model = LinearRegression().fit(frame, frame.sum(axis=1) + 7.0)
    client = mlflow.MlflowClient()
    run = client.create_run("0")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "model")
        mlflow.sklearn.save_model(
            model,
            str(place),
            signature=infer_signature(frame, model.predict(frame)) if signature else None,
            pip_requirements=["scikit-learn"],
        )
        if loader:
            content = yaml.safe_load((place / "MLmodel").read_text())
            content["flavors"]["python_function"]["loader_module"] = loader
            (place / "MLmodel").write_text(yaml.safe_dump(content))
        client.log_artifacts(run.info.run_id, str(place), "model")
    client.create_registered_model(name)
    client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    return 7.0


@pytest.mark.long
async def test_somebody_elses_model_is_served_through_its_flavor_or_refused_with_the_reason(
    settings: Settings, publish: Any, laboratory: Laboratory, mlflow_server: Server, dataset: Dataset
) -> None:
    await asyncio.to_thread(publish, 100.0)
    before = set(sys.modules)
    good, bare, strange = (f"foreign-{uuid4().hex[:8]}" for _ in range(3))
    await asyncio.to_thread(register_foreign, mlflow_server.url, good, dataset)
    await asyncio.to_thread(register_foreign, mlflow_server.url, bare, dataset, signature=False)
    await asyncio.to_thread(register_foreign, mlflow_server.url, strange, dataset, loader="nobody_has_this")
    records = [laboratory.complete_record() for _ in range(3)]
    named = settings.copy(update={"serving_foreign_models": f"{good}, {bare},{strange}"})
    async with serving(named) as (service, client):
        answer = await client.post(f"/v2/models/{good}/infer", json=columns(records))
        assert answer.status_code == 200, answer.text
        expected = [7.0 + float(row.sum()) for row in service.pipeline.features(records)]
        assert answer.json()["outputs"][0]["data"] == pytest.approx(expected, rel=1e-4)
        assert (await client.get(f"/v2/models/{good}")).json()["platform"] == "mlflow_pyfunc"
        for name, words in ((bare, "no signature"), (strange, "'nobody_has_this' is not installed")):
            refused = await client.post(f"/v2/models/{name}/infer", json=columns(records))
            assert refused.status_code == 503
            assert words in refused.json()["error"]
            loaded = (await client.get("/models")).json()["loaded"]
            assert any(each["name"] == name and words in each["problem"]["reason"] for each in loaded)
        assert "sklearn" not in sys.modules or "sklearn" in before  # its code ran elsewhere
    for others in ("", f"{bare},{good}-2"):
        async with serving(settings.copy(update={"serving_foreign_models": others})) as (_, client):
            refused = await client.post(f"/v2/models/{good}/infer", json=columns(records))
            assert refused.status_code == 503
            assert "COMPLEX_SYSTEM_SERVING_FOREIGN_MODELS" in refused.json()["error"]


EVIL = """
import os, sys, time, mlflow.pyfunc, numpy

def _load_pyfunc(path):
    print("what a model prints is no answer")
    with open(os.environ["HOME"] + "/loaded", "w") as file:
        file.write(repr(sorted(os.environ)))
    return Evil()

class Evil:
    def predict(self, frame):
        wish = int(frame.iloc[0, -1])
        if wish == 1: os._exit(3)
        if wish == 2: time.sleep(600)
        if wish == 3: raise ValueError("no")
        if wish == 4: return numpy.zeros(len(frame) + 1)
        if wish == 5: return [self] * len(frame)
        return numpy.full(len(frame), float(os.getpid()))
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ForeignRuntime]:
    """A foreign model that misbehaves as the last feature says."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    monkeypatch.setenv("COMPLEX_SYSTEM_API_KEY", "s3cret")
    names = ("a", "b")
    folder = tmp_path / "model"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "evil.py").write_text(EVIL)
    signature = ModelSignature(inputs=Schema([ColSpec("double", name) for name in names]))
    model = Model(signature=signature)
    model.add_flavor("python_function", loader_module="evil", code="code", env={})
    model.save(str(folder / "MLmodel"))
    return lambda: ForeignRuntime("evil version 1", folder, ModelInput("evil version 1", signature, names))


@pytest.mark.long
def test_what_a_foreign_model_does_happens_in_its_own_process(
    evil: Callable[[], ForeignRuntime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = evil()

    def predict(runtime: ForeignRuntime, wish: float) -> float:
        return float(runtime.run(np.array([[0, wish]], dtype=np.float32))[0])

    pid = predict(runtime, 0)
    assert pid != os.getpid()
    assert predict(runtime, 0) == pid
    seen = (tmp_path / "model" / "loaded").read_text()
    assert "PATH" in seen
    assert "COMPLEX_SYSTEM_API_KEY" not in seen
    for wish, problem in ((3, "ValueError: no"), (4, "one number for each"), (5, "not numbers")):
        with pytest.raises(InternalError, match=problem):
            predict(runtime, wish)
    assert predict(runtime, 0) == pid
    for wish, problem, seconds in ((1, "ended its process", 30.0), (2, r"within 1 s", 1.0)):
        with monkeypatch.context() as patched:
            patched.setattr(foreign, "PREDICT_SECONDS", seconds)
            with pytest.raises(InternalError, match=problem):
                predict(runtime, wish)
        assert predict(runtime, 0) != pid  # the next call starts another one
        pid = predict(runtime, 0)
    assert psutil.pid_exists(int(pid))
    del runtime
    gc.collect()
    assert not psutil.pid_exists(int(pid))
    assert not (tmp_path / "model").exists()


async def test_challengers_score_in_the_background_and_the_event_carries_their_predictions(
    settings: Settings, tester: TesterService, publish: Any, laboratory: Laboratory
) -> None:
    champion = await asyncio.to_thread(publish, 100.0)
    challenger = await asyncio.to_thread(publish, 150.0, trainer="pytorch", champion=False)
    broken = await asyncio.to_thread(publish, 1.0, trainer="tensorflow", champion=False, pipeline_version="000000000000")
    events: list[PredictionMade] = []

    async def hear(thing: Any) -> None:
        events.append(PREDICTION_MADE.decode(thing.value))

    subscription = await tester.broker.subscribe(event_subject(PREDICTION_MADE), hear)
    await tester.broker.settle()
    try:
        async with serving(settings.copy(update={"serving_shadow_share": 1.0})) as (_, client):
            records = [laboratory.complete_record() for _ in range(3)]
            answer = (await client.post("/predict", json=records)).json()
            assert answer["model"]["name"] == champion[0]
            [event] = await eventually(lambda: events)
            shadows = {each.model: each for each in event.shadows}
            assert set(shadows) == {challenger[0], broken[0]}
            assert shadows[challenger[0]].predictions == pytest.approx([v + 50.0 for v in answer["predictions"]], rel=1e-5)
            assert shadows[challenger[0]].version == "1"
            assert "000000000000" in shadows[broken[0]].error
            assert [each.prediction for each in event.predictions] == answer["predictions"]
            metrics = (await client.get("/metrics")).text
            assert f'serving_shadow_requests_total{{model="{challenger[0]}",outcome="scored"}} 1.0' in metrics
        events.clear()
        named = {"serving_shadow_share": 1.0, "serving_shadow_models": f"{challenger[0]}, nobody"}
        async with serving(settings.copy(update=named)) as (_, client):
            await client.post("/predict", json=records)
            [event] = await eventually(lambda: events)
            assert {each.model: bool(each.error) for each in event.shadows} == {challenger[0]: False, "nobody": True}
        events.clear()
        newer = await asyncio.to_thread(publish, 130.0, champion=False)  # of the champion's own model
        async with serving(settings.copy(update={**named, "serving_shadow_models": champion[0]})) as (_, client):
            answer = (await client.post("/predict", json=records)).json()
            assert answer["model"]["version"] == champion[1]
            [event] = await eventually(lambda: events)
            [shadow] = event.shadows
            assert (shadow.model, shadow.version) == newer
            assert shadow.predictions == pytest.approx([v + 30.0 for v in answer["predictions"]], rel=1e-5)
    finally:
        await subscription.unsubscribe()


async def test_arrow_pages_are_answered_with_arrow_pages(
    settings: Settings, tester: TesterService, publish: Any, dataset: Dataset, laboratory: Laboratory
) -> None:
    name, version = await asyncio.to_thread(publish, 100.0)
    records = [laboratory.complete_record() for _ in range(2500)]
    table = pa.Table.from_pylist(records, schema=raw_schema(dataset))
    async with serving(settings) as (service, client):
        expected = [100.0 + float(row.sum()) for row in service.pipeline.features(records)]
        answer = await ServingClient(tester).predict_table(table, rows=1000)
        assert answer.column("prediction").to_pylist() == pytest.approx(expected, rel=1e-5)
        assert answer.column("_id").to_pylist() == [record["_id"] for record in records]
        small = table.select(["material_id", R1]).slice(0, 3)
        page = decode_page(await tester.ask(PREDICT_COLUMNS, encode_page(Page(small))))
        assert page.table.column_names == ["prediction"]
        assert page.notes == {"model": name, "version": version, "pipeline_version": dataset.version}
        assert (await client.post("/predict", json=records[0])).status_code == 200

        async def ask(table: Any) -> None:
            await tester.ask(PREDICT_COLUMNS, encode_page(Page(table)) if isinstance(table, pa.Table) else table)

        for bad in (
            b"",
            b"no page",
            "text",
            None,
            small.slice(0, 0),
            small.select([R1]),
            small.append_column("x", [[1, 2, 3]]),
        ):
            with pytest.raises(InvalidRequestError):
                await ask(bad)
        with pytest.raises(InvalidRequestError, match="declared types"):
            await ask(small.set_column(1, R1, pa.array(["a", "b", "c"])))
        with pytest.raises(InvalidRecordError) as caught:
            await ask(small.set_column(1, R1, pa.array([1.0, 31.0, float("inf")])))
        assert [(fault["record"], fault["field"]) for fault in caught.value.faults] == [(1, R1), (2, R1)]
    async with serving(settings.copy(update={"serving_records": 1000})):
        with pytest.raises(TooLargeError, match="3 requests"):
            await tester.ask(PREDICT_COLUMNS, encode_page(Page(table)))


async def test_intervals_are_answered_over_nats(
    settings: Settings, tester: TesterService, publish: Any, dataset: Dataset, laboratory: Laboratory
) -> None:
    """On request only: the published subject answers a list with a list."""
    await asyncio.to_thread(publish, 100.0, files={**quick_files(), SAMPLE_FILE: quick_sample()})
    records = [laboratory.complete_record() for _ in range(3)]
    table = pa.Table.from_pylist(records, schema=raw_schema(dataset))
    async with serving(settings):
        plain = await tester.ask(PREDICT, records)
        answer = await tester.ask(PREDICT, {"records": records, "interval": 0.9})
        assert answer == {"predictions": plain, "intervals": [[value - 90, value + 90] for [value] in plain]}
        page = decode_page(await tester.ask(PREDICT_COLUMNS, encode_page(Page(table, notes={"interval": "0.9"})))).table
        assert page.column_names == ["_id", "prediction", "lower", "upper"]
        for name, ends in (("lower", -90), ("upper", 90)):
            assert page.column(name).to_pylist() == pytest.approx([value + ends for [value] in plain], rel=1e-6)
        answer = await tester.ask(PREDICT, {"records": records, "warnings": True})
        assert list(answer) == ["predictions", "record_warnings"]
        assert len(answer["record_warnings"]) == 3
        page = decode_page(await tester.ask(PREDICT_COLUMNS, encode_page(Page(table, notes={"warnings": "true"})))).table
        assert page.column_names == ["_id", "prediction", "warnings"]
        assert [len(texts) for texts in page.column("warnings").to_pylist()] == [
            len(each) for each in answer["record_warnings"]
        ]
        for level, problem in ((0.999, "allows at most 0.99"), (90, "between 0 and 1"), ("much", "such as 0.9, not 'much'")):
            with pytest.raises(InvalidRequestError, match=problem):
                await tester.ask(PREDICT, {"records": records, "interval": level})
            with pytest.raises(InvalidRequestError, match=problem):
                await tester.ask(PREDICT_COLUMNS, encode_page(Page(table, notes={"interval": str(level)})))
        with pytest.raises(InvalidRequestError, match="or a mapping with 'records' and 'interval'"):
            await tester.ask(PREDICT, {"records": records, "level": 0.9})


async def test_the_documentations_programs_for_the_broker_run_when_they_are_pasted(
    settings: Settings, publish: Any, dataset: Dataset, nats_server: Server
) -> None:
    await asyncio.to_thread(publish, 100.0, files={SAMPLE_FILE: quick_sample()})
    async with serving(settings) as (service, client):
        document = (await client.get("/openapi.json")).json()
        assert list(document["paths"])[-1] == "/subjects"
        assert document["tags"][-1]["name"] == "NATS"
        description = document["paths"]["/subjects"]["get"]["description"]
        assert (await client.get("/subjects")).json()["subject"] == PREDICT.name
        programs = re.findall(r"```python\n(.*?)```", description, re.DOTALL)
        assert len(programs) == 3
        records = [example_record(dataset, position) for position in (0, 1)]
        expected = [100.0 + float(row.sum()) for row in service.pipeline.features(records)]
        address = f"nats://127.0.0.1:{nats_server.port}"
        printed = []
        for program in programs:
            done = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", program, address], capture_output=True, text=True, timeout=80
            )
            assert done.returncode == 0, done.stderr
            printed.append(ast.literal_eval(done.stdout))
        rows, page, explained = printed
        assert [row[0] for row in rows] == pytest.approx(expected, rel=1e-5)
        assert [row["prediction"] for row in page] == pytest.approx(expected, rel=1e-5)
        assert [each["prediction"] for each in explained["explanations"]] == pytest.approx(expected, rel=1e-5)
        sums = [explained["base"] + sum(each["contributions"].values()) for each in explained["explanations"]]
        assert sums == pytest.approx(expected, rel=1e-5)


async def test_explanations_over_nats_say_what_is_wrong(
    settings: Settings, tester: TesterService, publish: Any, laboratory: Laboratory
) -> None:
    record = laboratory.complete_record()
    await asyncio.to_thread(publish, 1.0)
    async with serving(settings):
        with pytest.raises(UnsupportedByModelError, match=r"sample\.arrow.*Train again"):
            await tester.ask(EXPLAIN, ExplainRequest(records=[record]))
        with pytest.raises(InvalidRecordError, match="rohwert_1_labormessung"):
            await tester.ask(EXPLAIN, ExplainRequest(records=[{**record, R1: 31.0}]))
        with pytest.raises(TooLargeError, match="2 requests of at most 100"):
            await tester.ask(EXPLAIN, ExplainRequest(records=[record] * 101))
        for bad in (None, [record], {"records": record}, {"records": []}):
            with pytest.raises(InvalidRequestError):
                await tester.ask(Request(EXPLAIN.name, Any, Any), bad)


_LOAD = """
import asyncio, json, sys
import httpx

async def main(url, body):
    seen, bad, count = {}, [], 0
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        async def ask():
            nonlocal count
            while not ended.done():
                answer = await client.post("/predict", content=body)
                count += 1
                if answer.status_code != 200:
                    bad.append(answer.text)
                    continue
                content = answer.json()
                model = content["model"]["name"], content["model"]["version"]
                if model not in seen:
                    print(model[0], flush=True)
                seen.setdefault(model, set()).add(tuple(content["predictions"]))
        await asyncio.gather(*(ask() for _ in range(8)))
    print(json.dumps({"count": count, "bad": bad, "seen": [[*model, sorted(values)] for model, values in seen.items()]}))

asyncio.run(main(sys.argv[1], sys.argv[2].encode()))
"""


@pytest.mark.long
async def test_a_swap_and_a_roll_back_under_load_from_another_process_fail_no_request(
    settings: Settings, publish: Any, tester: TesterService, mlflow_server: Server, laboratory: Laboratory
) -> None:
    old = await asyncio.to_thread(publish, 1000.0)
    new = await asyncio.to_thread(publish, 5000.0, trainer="tensorflow", champion=False)
    records = [laboratory.complete_record() for _ in range(3)]
    async with serving(settings) as (service, _):
        base = [float(row.sum()) for row in service.pipeline.features(records)]
        command = [sys.executable, "-c", _LOAD, service.url, json.dumps(records)]
        load = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert load.stdout is not None
        assert await load.stdout.readline() == f"{old[0]}\n".encode()  # it asks, and is answered
        for turn, model in enumerate((new, old, new, old)):
            await asyncio.to_thread(crown, mlflow_server.url, *model)
            await tester.announce(
                CHAMPION_CHANGED, ChampionChanged(model=model[0], version=model[1], framework="lightgbm", rmse=15.0)
            )
            await eventually(lambda model=model: service.health().detail == f"{model[0]} v1")
            if turn == 0:
                assert await load.stdout.readline() == f"{new[0]}\n".encode()
        output, _ = await load.communicate(b"")  # whose end ends it
    report = json.loads(output)
    assert report["bad"] == []
    assert report["count"] > 50
    seen = {name: values for name, _, values in report["seen"]}
    assert set(seen) == {old[0], new[0]}
    for name, bias in ((old[0], 1000.0), (new[0], 5000.0)):
        # One answer for the same records, so that none was mixed.
        [values] = seen[name]
        assert values == pytest.approx([bias + value for value in base], rel=1e-5)


async def test_polling_alone_swaps_under_load_on_every_protocol(
    settings: Settings, publish: Any, mlflow_server: Server, laboratory: Laboratory
) -> None:
    """No event says that the champion moved."""
    old = await asyncio.to_thread(publish, 1000.0)
    new = await asyncio.to_thread(publish, 5000.0, trainer="tensorflow", champion=False)
    record = laboratory.complete_record()
    own = {name: record[name] for name in ("material_id", "laborant", R1, R2, R3)}
    biases = {old[0]: 1000.0, new[0]: 5000.0}
    async with serving(settings) as (service, client):
        base = float(service.pipeline.features([record])[0].sum())
        latest: dict[str, float] = {}
        ended = asyncio.Event()

        async def ask(path: str, body: Any, read: Callable[[Any], tuple[float, str | None]]) -> None:
            while not ended.is_set():
                answer = await client.post(path, json=body)
                assert answer.status_code == 200, answer.text
                prediction, name = read(answer.json())
                [bias] = [each for each in biases.values() if abs(prediction - base - each) < 1.0]
                assert bias == biases.get(name or "", bias)  # MLflow's answers do not name the model
                latest[path] = bias

        async def swap() -> None:
            try:
                for model in (new, old, new):
                    await asyncio.to_thread(crown, mlflow_server.url, *model)
                    wanted = [biases[model[0]]] * 3
                    await eventually(lambda wanted=wanted: list(latest.values()) == wanted, 60)
            finally:
                ended.set()

        def of_oip(answer: Any) -> tuple[float, str]:
            return answer["outputs"][0]["data"][0], answer["parameters"]["registered_name"]

        async with asyncio.TaskGroup() as group:
            group.create_task(ask("/predict", own, lambda a: (a["predictions"][0], a["model"]["name"])))
            group.create_task(ask("/invocations", {"dataframe_records": [own]}, lambda a: (a["predictions"][0], None)))
            group.create_task(ask("/v2/models/champion/infer", columns([record]), of_oip))
            group.create_task(swap())
