"""The REST interface on a real socket: what it answers, and what it refuses without harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from typing_extensions import override

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import BusyError, InvalidRequestError, StartError, TooLargeError
from complex_system.http import connections as connections_module
from complex_system.http import limits as limits_module
from complex_system.http import server as server_module
from complex_system.http.limits import LARGE_BODY, BodyLimits, LimitedRequest
from complex_system.http.server import RestServer
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.engine import Limits, PredictionEngine
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.source import LoadedModel, ModelReference
from complex_system.serving.requests.json import decoded, json_of
from complex_system.serving.rest.app import make_app
from complex_system.tracking.model_files import SAMPLE_FILE
from models import MemorySource
from support import eventually
from trainings import quick_sample

LIMITS = Limits(body_bytes=200_000, records=500)


@asynccontextmanager
async def server(
    dataset: Dataset, source: MemorySource, **options: Any
) -> AsyncIterator[tuple[ModelManager, httpx.AsyncClient]]:
    models = ModelManager(source, Pipeline(dataset))
    await models.refresh()
    rest = RestServer(make_app(PredictionEngine(models, limits=LIMITS), dataset), "127.0.0.1", 0)
    await rest.start()
    try:
        async with httpx.AsyncClient(base_url=rest.url, timeout=20, **options) as client:
            yield models, client
    finally:
        await rest.stop()


@pytest.fixture
async def source(dataset: Dataset) -> MemorySource:
    source = MemorySource()
    source.publish(dataset, 1.0)
    return source


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of one server that must survive all that the tests here send to it."""
    dataset, source = Dataset.load(), MemorySource()
    source.files = {SAMPLE_FILE: quick_sample()}
    source.publish(dataset, 1.0)
    async with server(dataset, source) as (_, client):
        yield client


RECORD = {"material_id": "00000000", "laborant": "TK", "rohwert_1_labormessung": 3, "rohwert_2_labormessung": 4.5}


def with_field(text: str) -> bytes:
    return b'{"material_id": "00000000", "rohwert_1_labormessung": ' + text.encode() + b"}"


BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "not JSON": (b"records=1", 400),
    "cut off": (json.dumps([RECORD]).encode()[:-3], 400),
    "trailing": (json.dumps(RECORD).encode() + b" x", 400),
    "deep list": (b"[" * 90_000, 400),
    "deep closed list": (b"[" * 60_000 + b"]" * 60_000, 400),
    "deep mapping": (b'{"records":' * 15_000, 400),
    "utf-16": (json.dumps(RECORD).encode("utf-16"), 400),
    "latin-1": ('{"material_id": "\u00e4"}'.encode("latin-1"), 400),
    "zero bytes": (b"\x00" * 100, 400),
    "lone surrogate": (b'{"material_id": "\\ud800"}', 400),
    "lone low surrogate": (b'{"material_id": "\\udc00"}', 400),
    "encoded surrogate": (b'{"material_id": "\xed\xa0\x80"}', 400),
    "NaN": (with_field("NaN"), 400),
    "Infinity": (with_field("Infinity"), 400),
    "minus Infinity": (with_field("-Infinity"), 400),
    "beyond float": (with_field("1e999"), 400),
    "long integer": (with_field("1" * 400), 422),
    "very long integer": (with_field("1" * 50_000), 400),
    "2^63": (with_field(str(2**63)), 422),
    "2^64": (with_field(str(2**64)), 422),
    "largest float": (with_field("1.7976931348623157e308"), 422),
    "text for a number": (with_field('"3"'), 422),
    "boolean for a number": (with_field("true"), 422),
    "list for a number": (with_field("[1]"), 422),
    "number for a category": (b'{"material_id": 0}', 422),
    "unknown category": (b'{"material_id": "44444444"}', 422),
    "unknown column": (json.dumps({**RECORD, "colour": "red"}).encode(), 422),
    "missing column": (b'{"laborant": "TK"}', 422),
    "out of range": (with_field("30.5"), 422),
    "key of the wrong type": (json.dumps({**RECORD, "_id": 7}).encode(), 422),
    "key too long": (json.dumps({**RECORD, "_id": "x" * 65}).encode(), 422),
    "no record": (b"[]", 400),
    "records empty": (b'{"records": []}', 400),
    "records no list": (b'{"records": {"material_id": "00000000"}}', 400),
    "records null": (b'{"records": null}', 400),
    "records and more": (b'{"records": [], "id": 1}', 422),
    "a number": (b"17", 400),
    "a text": (b'"00000000"', 400),
    "null": (b"null", 400),
    "list of numbers": (b"[1, 2]", 422),
    "list of lists": (b"[[1]]", 422),
    "null record": (b"[null]", 422),
    "empty mapping": (b"{}", 422),
    "too many records": (json.dumps([{"material_id": "00000000"}] * 501).encode(), 413),
    "too many bytes": (b" " * 200_001, 413),
    "far too many bytes": (b" " * 3_000_000, 413),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_input_costs_its_sender_an_error_and_nobody_else_anything(name: str, client: httpx.AsyncClient) -> None:
    body, status = BAD_BODIES[name]
    answer = await client.post("/predict", content=body)
    assert answer.status_code == status, answer.text[:300]
    error = answer.json()["error"]
    assert error["code"] == {400: "invalid_request", 413: "too_large", 422: "invalid_record"}[status]
    assert 0 < len(error["message"]) < 1000
    assert bool(error["faults"]) == (status == 422)
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    assert len((await client.post("/predict", json=RECORD)).json()["predictions"]) == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("NaN", "it holds NaN (byte 54, field 'rohwert_1_labormessung'), and numbers must be finite"),
        ("-Infinity", "it holds -Infinity (byte 54, field 'rohwert_1_labormessung'), and numbers must be finite"),
        ("1e999", "it holds the number 1e999 (byte 54, field 'rohwert_1_labormessung'), and numbers must be finite"),
        ("-12.5E+400", "it holds the number -12.5E+400 (byte 54, field 'rohwert_1_labormessung')"),
        (
            "1" * 5000,
            "it holds an integer of 5000 digits (byte 54, field 'rohwert_1_labormessung'), and numbers must be finite",
        ),
        ("1" * 401, "field 'rohwert_1_labormessung': must be a finite number, not 11111111111111111111... (401 digits)"),
    ],
)
async def test_a_number_that_is_none_is_named_with_its_field_and_what_is_allowed(
    number: str, words: str, client: httpx.AsyncClient, dataset: Dataset, source: MemorySource
) -> None:
    async with large_server(dataset, source) as large:
        for own, body in ((client, with_field(number)), (large, with_field(number) + b" " * LARGE_BODY)):
            message = (await own.post("/predict", content=body)).json()["error"]["message"]
            assert words in message
            assert "$" not in message


async def test_words_for_a_long_body_take_one_pass() -> None:
    """A search that began anew at each digit would take hours."""
    for body in (
        b'["1.2.3e5", 1e999]',
        b"[" + b"1" * 2_000_000 + b"e]",
        b"[" + b"1." * 1_000_000 + b"]",
        b'["' + b"1e9" * 700_000 + b'", 1e999]',
    ):
        with pytest.raises(InvalidRequestError, match="not JSON"):
            json_of(body)


async def test_probes_answer_head_as_get_without_a_body(client: httpx.AsyncClient) -> None:
    for path in ("/livez", "/readyz", "/health/live", "/health/ready"):
        head, get = await client.head(path), await client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(get.content))


async def test_mangled_requests_are_answered_with_4xx_or_a_prediction(client: httpx.AsyncClient) -> None:
    draw = random.Random(5)
    body = json.dumps({"records": [RECORD, {"material_id": "11111111", "datum": None}]}).encode()
    for _ in range(400):
        mangled = bytearray(body)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(mangled))
            mangled[at : at + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
        answer = await client.post("/predict", content=bytes(mangled))
        assert answer.status_code in (200, 400, 422), (bytes(mangled), answer.text)
    assert (await client.post("/predict", json=RECORD)).status_code == 200


async def test_a_fault_names_record_and_field(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict", json=[RECORD, {**RECORD, "_id": "r-1", "rohwert_2_labormessung": 31}])
    (fault,) = answer.json()["error"]["faults"]
    assert (fault["record"], fault["id"], fault["field"]) == (1, "r-1", "rohwert_2_labormessung")
    assert "[0, 30]" in fault["problem"]


async def test_compressed_bodies_are_refused_with_a_message(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert "uncompressed" in answer.json()["error"]["message"]


async def test_a_body_without_a_declared_length_is_limited_too(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(35):
            yield b" " * 10_000

    answer = await client.post("/predict", content=endless())
    assert answer.status_code == 413
    assert "or more, more than the 200000 bytes" in answer.json()["error"]["message"]
    assert "2 requests or more" in answer.json()["error"]["message"]
    assert (await client.post("/predict", json=RECORD)).status_code == 200


async def test_a_request_id_that_could_break_a_header_is_replaced(client: httpx.AsyncClient) -> None:
    for own, kept in (("abc-1", True), ("a b", False), ("x" * 129, False)):
        answer = await client.post("/predict", json=RECORD, headers={"X-Request-ID": own})
        assert (answer.json()["request_id"] == own) == kept
        assert answer.headers["x-request-id"] == answer.json()["request_id"]


async def test_unknown_paths_and_methods_answer_in_the_same_shape(client: httpx.AsyncClient) -> None:
    missing, wrong = await client.get("/nothing"), await client.get("/predict")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert missing.json()["error"]["code"] == "http_404"
    assert wrong.headers["allow"] == "POST"


async def test_a_fault_inside_is_500_without_a_trace(
    dataset: Dataset, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server(dataset, source) as (models, client):

        def fail(_: Any) -> list[float]:
            raise KeyError("/secret/path")

        with monkeypatch.context() as patched:
            patched.setattr(models.champion.require(), "predict_features", fail)
            answer = await client.post("/predict", json=RECORD)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal"
        assert "secret" not in answer.text
        assert "KeyError" not in answer.text
        assert (await client.post("/predict", json=RECORD)).status_code == 200


async def test_the_documentation_describes_the_declared_columns_and_its_examples_work(
    client: httpx.AsyncClient, dataset: Dataset
) -> None:
    schema = (await client.get("/openapi.json")).json()
    record = schema["components"]["schemas"]["RawRecord"]
    assert set(record["properties"]) == {"_id", *dataset.raw_names}
    assert record["required"] == ["material_id"]
    assert record["properties"]["material_id"]["enum"] == list(dataset.column("material_id").categories)
    first = record["properties"]["rohwert_1_labormessung"]
    assert (first["minimum"], first["maximum"], first["type"]) == (0.0, 30.0, ["number", "null"])
    assert first["description"].startswith("First raw value.")
    examples = schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        assert (await client.post("/predict", json=example["value"])).status_code == 200
    assert "/openapi.json" in (await client.get("/docs")).text
    assert (await client.get("/")).json()["docs"] == "/docs"


async def test_a_swap_under_load_fails_no_request_and_mixes_no_models(dataset: Dataset, source: MemorySource) -> None:
    async with server(dataset, source, limits=httpx.Limits(max_connections=8)) as (models, client):
        records = list(Laboratory(seed=2).records(5))
        sums = Pipeline(dataset).features(records).sum(axis=1)
        seen: set[str] = set()
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                answer = await client.post("/predict", json=records)
                assert answer.status_code == 200, answer.text
                version = answer.json()["model"]["version"]
                # Version n answers n plus the sum of the features, so a mixed answer would show.
                assert answer.json()["predictions"] == pytest.approx((sums + float(version)).tolist(), rel=1e-5)
                seen.add(version)

        async def swap() -> None:
            try:
                for bias in range(2, 8):
                    version = source.publish(dataset, float(bias))
                    assert await models.refresh()
                    async with asyncio.timeout(20):
                        while version not in seen:
                            await asyncio.sleep(0.001)
            finally:
                done.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(swap())
            for _ in range(6):
                group.create_task(ask())
        assert {"2", "3", "4", "5", "6", "7"} <= seen


LEAD = Dataset.parse("""
name: lead
target: y
columns:
  - {name: lead, type: number, range: [0, 200], unit: mg/l, censored: both}
  - {name: oven, type: category, categories: [Nord, Süd], spellings: {Nord: [nord, "Nord "]}}
  - {name: y, type: number, optional: true}
pipeline:
  - {step: keep, column: lead}
  - {step: one_hot, column: oven}
""")


async def test_limits_and_spellings_mean_the_same_on_every_path() -> None:
    source = MemorySource()
    source.publish(LEAD, 1.0)
    rows = [("<0,01", "nord"), (">100 mg/l", "Nord "), (0.005, "Nord"), ("< 4", "Süd")]
    want = [2.005, 102.0, 2.005, 4.0]  # 1 + the sum of the features
    lead, oven = [row[0] for row in rows], [row[1] for row in rows]
    records = [{"lead": number, "oven": name} for number, name in rows]
    async with server(LEAD, source) as (_, client):

        async def ask(path: str, field: str, **body: Any) -> list[float]:
            response = await client.post(path, **body)
            assert response.status_code == 200, response.text
            found: Any = response.json()
            for part in field.split("."):
                found = found[int(part) if part.isdecimal() else part]
            return [each if isinstance(each, float) else each[0] for each in found]

        csv = "lead;oven\n" + "".join(f"{number};{name}\n" for number, name in rows).replace("0.005", "0,005")
        model = source.published[-1][0]
        for datatype in ("FP64", "BYTES"):
            tensors = [
                {"name": "lead", "shape": [4], "datatype": datatype, "data": lead},
                {"name": "oven", "shape": [4], "datatype": "BYTES", "data": oven},
            ]
            path = f"/v2/models/{model}/infer"
            assert await ask(path, "outputs.0.data", json={"inputs": tensors}) == pytest.approx(want)
        assert await ask("/predict", "predictions", json={"records": records}) == pytest.approx(want)
        split = {"columns": ["lead", "oven"], "data": [list(row) for row in rows]}
        for content in (
            {"dataframe_records": records},
            {"dataframe_split": split},
            {"inputs": {"lead": lead, "oven": oven}},
        ):
            assert await ask("/invocations", "predictions", json=content) == pytest.approx(want)
        headers = {"Content-Type": "text/csv"}
        assert await ask("/invocations", "predictions", content=csv.encode(), headers=headers) == pytest.approx(want)
        refused = await client.post("/predict", json={"lead": "<1,234", "oven": "NORD"})
        assert refused.status_code == 422
        problems = {fault["field"]: fault["problem"] for fault in refused.json()["error"]["faults"]}
        assert "below a limit that can be 1234 or 1.234" in problems["lead"]
        assert problems["oven"] == "'NORD' is not one of Nord, Süd"
        schema = (await client.get("/openapi.json")).json()["components"]["schemas"]["RawRecord"]["properties"]
        assert schema["lead"]["type"] == ["number", "string"]
        assert schema["oven"]["enum"] == ["Nord", "Süd", "nord", "Nord "]


LENIENT = Dataset.parse(
    """
name: lenient
target: y
columns:
  - {name: "Öl, heiß", type: number, range: [0, 10], outside: warn}
  - {name: b, type: number, range: [0, 10], outside: clip, missing_values: [-999], optional: true, fill: 5}
  - {name: c, type: number, range: [0, 10], optional: true, fill: 5}
  - {name: y, type: number, optional: true}
pipeline:
  - {step: scale, column: "Öl, heiß"}
  - {step: scale, column: b}
  - {step: scale, column: c}
"""
)


async def test_what_lies_outside_of_its_range_is_predicted_and_the_answer_says_so_on_every_path() -> None:
    source = MemorySource()
    source.publish(LENIENT, 0.0)
    rows = [(5.0, 5.0), (20.0, -999), (-10.0, 99.0), (0.0, 99)]
    want = [1.5, 3.0, 0.5, 1.5]  # the sum of the features; c is 0.5
    oil, b = [row[0] for row in rows], [row[1] for row in rows]
    records = [{"Öl, heiß": number, "b": other} for number, other in rows]
    header = "%C3%96l%2C%20hei%C3%9F=2, b=2"
    many = 100  # more than are processed as rows
    async with server(LENIENT, source) as (_, client):
        response = await client.post("/predict", json={"records": records})
        assert response.json()["predictions"] == pytest.approx(want)
        assert response.headers["x-outside-range"] == header
        assert response.json()["warnings"] == [
            {"field": "Öl, heiß", "count": 2, "problem": "2 values are outside of [0, 10] and are taken as they are",
             "records": [1, 2]},
            {"field": "b", "count": 2, "problem": "2 values are outside of [0, 10] and are moved to its nearer end",
             "records": [2, 3]},
        ]  # fmt: skip
        response = await client.post("/predict", json={"records": records * many})
        assert response.json()["predictions"] == pytest.approx(want * many)
        assert [each["count"] for each in response.json()["warnings"]] == [2 * many, 2 * many]
        assert len(response.json()["warnings"][0]["records"]) == 20
        tensors = [
            {"name": name, "shape": [4], "datatype": "FP64", "data": data} for name, data in (("Öl, heiß", oil), ("b", b))
        ]
        text = "Öl, heiß;b\n" + "".join(f"{number};{other}\n" for number, other in rows)
        for path, body in (
            (f"/v2/models/{source.published[-1][0]}/infer", {"json": {"inputs": tensors}}),
            ("/invocations", {"json": {"dataframe_records": records}}),
            ("/invocations", {"content": text.encode(), "headers": {"Content-Type": "text/csv"}}),
        ):
            response = await client.post(path, **body)
            assert response.status_code == 200, response.text
            found = response.json()
            assert (found.get("predictions") or found["outputs"][0]["data"]) == pytest.approx(want)
            assert response.headers["x-outside-range"] == header
            assert "warnings" not in found
        plain = await client.post("/predict", json={"Öl, heiß": 5, "b": 5})
        assert "x-outside-range" not in plain.headers
        assert "warnings" not in plain.json()
        for value, problem in ((11, "11.0 is outside of [0, 10]"), (1e300, "1e+300 is outside of [0, 10]")):
            refused = await client.post("/predict", json={"Öl, heiß": 5, "c": value})
            assert (refused.status_code, refused.json()["error"]["faults"][0]["problem"]) == (422, problem)
        metrics = (await client.get("/metrics")).text
        assert f'serving_outside_range_total{{column="b",outside="clip"}} {2 * many + 8}.0' in metrics
        assert f'serving_outside_range_total{{column="Öl, heiß",outside="warn"}} {2 * many + 8}.0' in metrics
        schema = (await client.get("/openapi.json")).json()["components"]["schemas"]["RawRecord"]["properties"]
        assert "minimum" not in schema["b"]
        assert (schema["c"]["minimum"], schema["c"]["maximum"]) == (0, 10)
        assert "A number outside of [0, 10] is taken as it is, and the answer says so." in schema["Öl, heiß"]["description"]


class SlowSource(MemorySource):
    """A source whose loads last until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.go = threading.Event(), threading.Event()

    @override
    def load(self, reference: ModelReference) -> LoadedModel:
        self.began.set()
        assert self.go.wait(60)
        return super().load(reference)


async def test_live_stays_true_and_the_old_model_answers_while_a_model_loads_slowly(dataset: Dataset) -> None:
    source = SlowSource()
    async with server(dataset, source) as (models, client):
        for version in ("1", "2"):
            source.began.clear()
            source.go.clear()
            assert source.publish(dataset, 1.0) == version
            loading = asyncio.create_task(models.refresh())
            try:
                assert await asyncio.to_thread(source.began.wait, 20)
                for path in ("/livez", "/health/live", "/v2/health/live"):
                    assert (await client.get(path)).status_code == 200
                status = 503 if version == "1" else 200
                for path in ("/readyz", "/v2/health/ready"):
                    assert (await client.get(path)).status_code == status
                assert (await client.post("/predict", json=RECORD)).status_code == status
                assert not loading.done()
            finally:
                source.go.set()
            assert await loading
            assert (await client.get("/readyz")).json()["model"]["version"] == version


async def test_a_taken_port_is_an_error_that_names_it(dataset: Dataset, source: MemorySource) -> None:
    app = make_app(PredictionEngine(ModelManager(source, Pipeline(dataset))), dataset)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=str(port)):
            await RestServer(app, "127.0.0.1", port).start()
    rest = RestServer(app, "127.0.0.1", 0)
    await rest.start()
    assert rest.url.startswith("http://127.0.0.1:")
    assert not rest.url.endswith(":0")
    await rest.stop()


async def test_the_server_stops_quickly_with_open_connections(
    dataset: Dataset, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(PredictionEngine(ModelManager(source, Pipeline(dataset))), dataset)
    with monkeypatch.context() as patched:
        patched.setattr(server_module, "_GRACE", 120)  # which an idle connection does not get
        rest = RestServer(app, "127.0.0.1", 0)
        await rest.start()
    async with httpx.AsyncClient(base_url=rest.url) as client:
        assert (await client.get("/health/live")).status_code == 200
        async with asyncio.timeout(60):
            await rest.stop()
    # A request that never ends does not block it indefinitely either.
    rest = RestServer(app, "127.0.0.1", 0)
    await rest.start()
    _, writer = await asyncio.open_connection("127.0.0.1", int(rest.url.rpartition(":")[2]))
    writer.write(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    async with asyncio.timeout(60):
        await rest.stop()
    writer.close()


async def test_a_small_answer_is_not_held_back_by_the_network_stack(client: httpx.AsyncClient) -> None:
    # With Nagle's algorithm on, every answer on a kept connection waits 40 ms for the client's acknowledgement: none is quick.
    # However loaded the machine is, one of many is.
    times = []
    for _ in range(200):
        began = time.perf_counter()
        await client.post("/predict", json=RECORD)
        times.append(time.perf_counter() - began)
        if min(times) < 0.035:
            return
    raise AssertionError(f"The quickest of {len(times)} answers took {min(times) * 1000:.0f} ms")


@asynccontextmanager
async def large_server(dataset: Dataset, source: MemorySource) -> AsyncIterator[httpx.AsyncClient]:
    models = ModelManager(source, Pipeline(dataset))
    await models.refresh()
    rest = RestServer(make_app(PredictionEngine(models), dataset), "127.0.0.1", 0)
    await rest.start()
    try:
        async with httpx.AsyncClient(base_url=rest.url, timeout=60) as client:
            yield client
    finally:
        await rest.stop()


async def test_large_bodies_are_answered_as_small_ones_are(dataset: Dataset, source: MemorySource) -> None:
    records = list(Laboratory(seed=2).records(10_000))
    expected = (Pipeline(dataset).features(records).sum(axis=1) + 1.0).tolist()
    padding = b" " * LARGE_BODY
    async with large_server(dataset, source) as client:
        for body in ({"records": records}, records):
            answer = await client.post("/predict", json=body)
            assert int(answer.request.headers["content-length"]) > LARGE_BODY
            assert answer.json()["predictions"] == pytest.approx(expected, rel=1e-5)
        for good in (json.dumps(RECORD).encode(), json.dumps(RECORD).encode("utf-8-sig")):
            for body in (good, good + padding):
                assert (await client.post("/predict", content=body)).status_code == 200
        for name, (body, status) in BAD_BODIES.items():
            if status == 413:
                continue
            answer = await client.post("/predict", content=padding + body + padding)
            small = await client.post("/predict", content=body)
            assert answer.status_code == small.status_code, name
            assert answer.json()["error"]["code"] == small.json()["error"]["code"], name
            assert answer.json()["error"]["faults"] == small.json()["error"]["faults"], name
        bad = [*records, {**RECORD, "rohwert_1_labormessung": "3"}]
        (fault,) = (await client.post("/predict", json=bad)).json()["error"]["faults"]
        assert (fault["record"], fault["field"]) == (10_000, "rohwert_1_labormessung")


def sender(chunks: int, headers: list[tuple[bytes, bytes]], limits: BodyLimits) -> tuple[LimitedRequest, list[int]]:
    """A request whose client sends so many chunks of 100,000 bytes, and the sizes of those that were read from it."""
    read: list[int] = []

    async def receive() -> dict[str, Any]:
        read.append(100_000)
        return {"type": "http.request", "body": b" " * 100_000, "more_body": len(read) < chunks}

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
    return LimitedRequest(scope, receive, limits), read


@pytest.mark.parametrize("declared", [True, False])
async def test_no_more_bytes_are_held_than_the_budget_has(declared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "BUDGET", 12_000_000)
    limits = BodyLimits(3_000_000, 100_000)
    headers = [(b"content-length", b"3000000")] if declared else []
    senders = [sender(30, headers, limits) for _ in range(9)]
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        tasks = [group.create_task(request.body()) for request, _ in senders]
        while not all(task.done() for task in tasks[:4]):
            await asyncio.sleep(0)
        for _ in range(200):
            await asyncio.sleep(0)
        # The others left the rest with the sender, where the connection's flow control holds it.
        assert [sum(read) for _, read in senders[4:]] == [0 if declared else 100_000] * 5
        assert not any(task.done() for task in tasks[4:])
        small, _ = sender(1, [(b"content-length", b"65536")], limits)
        assert await small.body()
        # One that gives up its place, and one whose client is gone, hold up nobody.
        tasks[5].cancel()
        for task, (request, _) in zip(tasks, senders, strict=True):
            if task is not tasks[5]:
                assert len(await task) == 3_000_000
            request.release()
    assert limits.budget.free == 12_000_000


async def test_who_waits_too_long_for_the_budget_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "WAIT_SECONDS", 0.2)
    limits = BodyLimits(2_000_000, 100_000)
    await limits.budget.take(limits.budget.free)
    request, read = sender(20, [(b"content-length", b"2000000")], limits)
    with pytest.raises(BusyError, match="again later"):
        await request.body()
    assert not read
    limits.budget.give_back(limits_module.BUDGET)
    assert len(await request.body()) == 2_000_000
    request.release()
    assert limits.budget.free == limits_module.BUDGET


async def test_a_body_too_large_takes_no_place() -> None:
    limits = BodyLimits(2_000_000, 100_000)
    await limits.budget.take(limits.budget.free)
    request, read = sender(30, [(b"content-length", b"3000000")], limits)
    with pytest.raises(TooLargeError):
        await asyncio.wait_for(request.body(), 20)
    assert sum(read) == 3_000_000  # read and discarded


async def test_a_slow_sender_does_not_keep_the_place_of_a_large_body(
    dataset: Dataset, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "BODY_SECONDS", 4.0)  # within which all are there, also on a busy machine
    monkeypatch.setattr(limits_module, "BUDGET", 0)  # so it is one body of the largest size
    async with large_server(dataset, source) as client:
        port = client.base_url.port
        slow = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8300000\r\n\r\n[")
            await writer.drain()
            slow.append((reader, writer))

        async def all_are_read() -> bool:
            return "serving_requests_in_progress 5.0" in (await client.get("/metrics")).text

        await eventually(all_are_read)
        answer = await client.post("/predict", content=json.dumps(RECORD).encode() + b" " * LARGE_BODY)
        assert answer.status_code == 200
        for reader, writer in slow:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408")
            assert b"did not arrive within" in await reader.read(1000)
            writer.close()


async def test_a_large_body_is_decoded_in_turns_with_the_loop() -> None:
    """A thread alone would not do: the decoder holds Python's lock for a whole call."""
    body = json.dumps({"records": list(Laboratory(seed=2).records(1_000)) * 150}).encode()
    turns = 0
    decoding = asyncio.create_task(asyncio.to_thread(decoded, body))
    while not decoding.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert decoding.result() == json.loads(body)
    assert turns >= 6  # in one call of the decoder there are one or two


async def test_a_connection_too_many_is_turned_away_and_the_next_is_served(
    dataset: Dataset, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "MAX_CONNECTIONS", 4)
    async with large_server(dataset, source) as client:
        port = client.base_url.port
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
        await eventually_status(client, 503)
        for probe in ("/livez", "/readyz", "/v2/health/ready", "/ping"):
            assert (await client.get(probe)).status_code == 200
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        await eventually_status(client, 200)


async def eventually_status(client: httpx.AsyncClient, status: int) -> None:
    async def is_answered() -> bool:
        return (await client.get("/model", headers={"Connection": "close"})).status_code == status

    await eventually(is_answered)


async def test_bytes_that_are_no_http_cost_only_their_connection(client: httpx.AsyncClient) -> None:
    port = client.base_url.port
    for garbage in (b"\x16\x03\x01\x02\x00hello\r\n\r\n", b"GET /" + b"x" * 100_000, b"POST /predict HTTP/1.1\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(garbage)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):  # the server may hang up before it has read all
            answer = await reader.read()
            assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")), answer[:100]
        writer.close()
    assert (await client.post("/predict", json=RECORD)).status_code == 200
