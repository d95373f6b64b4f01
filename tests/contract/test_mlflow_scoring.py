"""MLflow's scoring protocol: the formats, answers and errors of ``mlflow models serve``, on our server."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError
from typing import Any

import httpx
import mlflow.version
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models.utils import _enforce_schema
from mlflow.pyfunc.scoring_server import infer_and_parse_data, parse_csv_input
from mlflow.types import ColSpec, Schema

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import raw_check
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.engine import Limits, PredictionEngine
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.rest import mlflow_scoring as scoring
from models import ManyModels, rest_server

DATASET = Dataset.load()
RECORDS = [
    {name: value for name, value in record.items() if name != DATASET.target}
    for record in (Laboratory(seed=3).complete_record() for _ in range(3))
]
FRAME = pd.DataFrame(RECORDS)
FEATURES = Pipeline(DATASET).features(RECORDS)
EXPECTED = [2.0 + float(row.sum()) for row in FEATURES]
FEATURE_FRAME = pd.DataFrame(FEATURES.astype(float), columns=list(DATASET.feature_names))[::-1].sort_index()


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    source = ManyModels(DATASET)
    source.publish("lab-lightgbm", 2.0, champion=True)
    async with rest_server(DATASET, source) as (_, client):
        yield client


def split(frame: pd.DataFrame) -> dict[str, Any]:
    return json.loads(frame.to_json(orient="split"))  # type: ignore[no-any-return]


async def invoke(client: httpx.AsyncClient, content: Any, kind: str = "application/json") -> httpx.Response:
    body = content if isinstance(content, str | bytes) else json.dumps(content)
    return await client.post("/invocations", content=body, headers={"Content-Type": kind})


FORMATS: dict[str, Any] = {
    "dataframe_split": {"dataframe_split": split(FRAME)},
    "dataframe_split without an index": {"dataframe_split": {k: v for k, v in split(FRAME).items() if k != "index"}},
    "dataframe_records": {"dataframe_records": RECORDS},
    "instances": {"instances": RECORDS},
    "inputs by column": {"inputs": {name: [record[name] for record in RECORDS] for name in RECORDS[0]}},
    "inputs by column, nested": {"inputs": {name: [[record[name]] for record in RECORDS] for name in RECORDS[0]}},
    "inputs as records": {"inputs": RECORDS},
    "with params": {"dataframe_records": RECORDS, "params": {"temperature": 1}},
    "features, dataframe_split": {"dataframe_split": split(FEATURE_FRAME)},
    "features, dataframe_split without columns": {"dataframe_split": {"data": FEATURES.tolist()}},
    "features in another order": {"dataframe_split": split(FEATURE_FRAME[sorted(FEATURE_FRAME, reverse=True)])},
    "features, dataframe_records": {"dataframe_records": FEATURE_FRAME.to_dict(orient="records")},
    "features, instances": {"instances": FEATURES.tolist()},
    "features, inputs": {"inputs": FEATURES.tolist()},
}


@pytest.mark.parametrize("name", FORMATS)
async def test_every_format_is_answered_with_predictions(client: httpx.AsyncClient, name: str) -> None:
    answer = await invoke(client, FORMATS[name])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["predictions"]
    assert answer.json()["predictions"] == pytest.approx(EXPECTED, rel=1e-5)


@pytest.mark.parametrize("kind", ["text/csv", "text/csv; charset=utf-8", "text/csv; charset=UTF-8"])
async def test_csv_as_pandas_writes_it_is_taken(client: httpx.AsyncClient, kind: str) -> None:
    frame = FRAME.assign(laborant=["TK", None, "AN"])
    expected = [
        2.0 + float(row.sum())
        for row in Pipeline(DATASET).features(
            [{**r, "laborant": t} for r, t in zip(RECORDS, ["TK", None, "AN"], strict=True)]
        )
    ]
    answer = await invoke(client, frame.to_csv(index=False), kind)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == pytest.approx(expected, rel=1e-5)


async def test_csv_means_what_mlflows_server_reads_in_it(client: httpx.AsyncClient) -> None:
    """Its server reads it with pandas, which knows more words for a missing value than an empty field."""
    body = "material_id,laborant,rohwert_1_labormessung,rohwert_2_labormessung\n00000000,NaN,NA,1.5\n11111111,TK, 2.5,nan\n"
    [first, second] = json.loads(pd.read_csv(io.StringIO(body), dtype={"material_id": str}).to_json(orient="records"))
    assert (first["laborant"], first["rohwert_1_labormessung"], second["rohwert_2_labormessung"]) == (None, None, None)
    by_frame = await invoke(client, {"dataframe_records": [first, second]})
    by_csv = await invoke(client, body, "text/csv")
    assert by_csv.status_code == 200, by_csv.text
    assert by_csv.json() == by_frame.json()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
async def test_csv_of_other_programs_is_read_as_it_is_meant(client: httpx.AsyncClient, separator: str) -> None:
    frame = FRAME.assign(rohwert_3_labormessung=[0.5, 1.25, 2.0])
    expected = await invoke(client, {"dataframe_split": split(frame)})
    text = frame.to_csv(index=separator == ",", sep=separator, decimal="." if separator == "," else ",")
    answer = await invoke(client, f"\ufeff{text}\n".replace("\n", "\r\n").encode(), "text/csv")
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == pytest.approx(expected.json()["predictions"], rel=1e-6)


async def test_a_point_beside_decimal_commas_is_no_decimal_point(client: httpx.AsyncClient) -> None:
    """As in files: the column's own values, else those of the other columns, say how its numbers are written."""
    body = "material_id;rohwert_1_labormessung;rohwert_2_labormessung\n00000000;1.234;2,5\n"
    answer = await invoke(client, body, "text/csv")
    assert answer.status_code == 400
    assert "1234.0 is outside of [0, 30]" in answer.json()["message"]


PLANT = Dataset.parse(
    """
name: plant
target: quality
id: Charge
columns:
  - {name: temp, type: number, range: [0, 100]}
  - {name: pressure, type: number, range: [0, 10]}
  - {name: flow, type: number, range: [0, 500], optional: true, fill: 200}
  - {name: quality, type: number, optional: true}
pipeline:
  - {step: scale, column: temp}
  - {step: scale, column: pressure}
  - {step: scale, column: flow}
"""
)
"""Numbers only, so each feature is called as its raw column is."""
ROW = {"temp": 50, "pressure": 3, "flow": 200}
SCALED = 2.0 + 0.5 + 0.3 + 0.4


@pytest.fixture(scope="module")
async def plant() -> AsyncIterator[tuple[ModelManager, httpx.AsyncClient]]:
    source = ManyModels(PLANT)
    source.publish("plant-lightgbm", 2.0, champion=True)
    async with rest_server(PLANT, source) as running:
        yield running


def plant_formats(row: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    names, values = list(row), list(row.values())
    return {
        "dataframe_split": ({"dataframe_split": {"columns": names, "data": [values]}}, "application/json"),
        "dataframe_records": ({"dataframe_records": [row]}, "application/json"),
        "instances": ({"instances": [row]}, "application/json"),
        "inputs": ({"inputs": {name: [value] for name, value in row.items()}}, "application/json"),
        "csv": (",".join(names) + "\n" + ",".join(map(str, values)) + "\n", "text/csv"),
    }


@pytest.mark.parametrize("name", plant_formats(ROW))
async def test_columns_named_as_raw_columns_are_raw_records(
    plant: tuple[ModelManager, httpx.AsyncClient], name: str
) -> None:
    """The same numbers mean the same at every door; features have the same names here, and are asked for."""
    models, client = plant
    predicted = (await client.post("/predict", json=ROW)).json()["predictions"]
    assert predicted == pytest.approx([SCALED])
    assert (await invoke(client, *plant_formats(ROW)[name])).json()["predictions"] == predicted
    extra = {"": 0, **ROW, "operator": "x", "level_0": 1}
    assert (await invoke(client, *plant_formats(extra)[name])).json()["predictions"] == predicted
    engine = PredictionEngine(models)
    assert (await engine.predict([dict(ROW)])).predictions == predicted  # records over NATS
    arrow = pa.Table.from_pylist([ROW])
    assert (await engine.predict_table(arrow)).predictions == predicted  # pages over NATS
    tensors = [{"name": n, "shape": [1], "datatype": "FP64", "data": [v]} for n, v in ROW.items()]
    answer = await client.post("/v2/models/champion/infer", json={"inputs": tensors})
    assert answer.json()["outputs"][0]["data"] == predicted

    refused = await invoke(client, *plant_formats({**ROW, "temp": 9999})[name])
    assert refused.status_code == 400
    assert "outside of [0, 100]" in refused.json()["message"]

    content, kind = plant_formats(ROW)[name]
    body = content if isinstance(content, str) else json.dumps(content)
    headers = {"Content-Type": kind, "X-Input": "features"}
    asked = await client.post("/invocations", content=body, headers=headers)
    assert asked.json()["predictions"] == pytest.approx([2.0 + sum(ROW.values())])


SCHEMA = Schema([ColSpec("double", name, required=name != "flow") for name in ROW])
SENT: dict[str, tuple[Any, str]] = {
    "pandas' index": (pd.DataFrame([ROW, ROW]).to_csv(), "text/csv"),
    "a byte order mark": ("\ufeff" + pd.DataFrame([ROW]).to_csv(index=False), "text/csv"),
    "an index of two levels": (pd.DataFrame([ROW]).set_index([[1], ["a"]]).to_csv(), "text/csv"),
    "a frame that was read back": (
        {"dataframe_split": split(pd.read_csv(io.StringIO(pd.DataFrame([ROW, ROW]).to_csv())))},
        "application/json",
    ),
    "further columns": ({"dataframe_records": [{**ROW, "operator": "x", "shift": None}]}, "application/json"),
    "further columns of some records": ({"dataframe_records": [ROW, {**ROW, "operator": "x"}]}, "application/json"),
    "another order": ({"dataframe_records": [dict(reversed(ROW.items()))]}, "application/json"),
    "no optional column": ({"inputs": {"temp": [50, 51], "pressure": [3, 4], "operator": ["x", "y"]}}, "application/json"),
    "a missing value": ("flow,temp,pressure\n,50,3\nNA,51,4\n", "text/csv"),
}


@pytest.mark.parametrize("name", SENT)
async def test_what_mlflows_own_server_reads_is_read_in_the_same_way(
    plant: tuple[ModelManager, httpx.AsyncClient], name: str
) -> None:
    content, kind = SENT[name]
    parsed = parse_csv_input(io.StringIO(content), SCHEMA) if kind == "text/csv" else infer_and_parse_data(content, SCHEMA)
    theirs = _enforce_schema(parsed if isinstance(parsed, pd.DataFrame) else pd.DataFrame(parsed), SCHEMA)
    records = [
        {column: None if pd.isna(value) else value for column, value in record.items()}
        for record in theirs.to_dict(orient="records")
    ]
    answer = await invoke(plant[1], content.encode() if isinstance(content, str) else content, kind)
    assert answer.status_code == 200, answer.text
    expected = [2.0 + float(row.sum()) for row in Pipeline(PLANT).features(raw_check(PLANT)(records))]
    assert answer.json()["predictions"] == pytest.approx(expected)


async def test_rows_without_names_are_features_only_where_that_is_said(
    plant: tuple[ModelManager, httpx.AsyncClient],
) -> None:
    _, client = plant
    for content in ({"instances": [[0.4, 0.3, 0.5]]}, {"dataframe_split": {"data": [[0.4, 0.3, 0.5]]}}):
        refused = await invoke(client, content)
        assert refused.status_code == 400
        assert "with the header 'X-Input: features'" in refused.json()["message"]
        answer = await client.post("/invocations", json=content, headers={"X-Input": "features"})
        assert answer.json()["predictions"] == pytest.approx([SCALED])
    named = await invoke(client, {"inputs": {"features": [[0.4, 0.3, 0.5]]}})
    assert named.json()["predictions"] == pytest.approx([SCALED])
    for headers, content, words in (
        ({"X-Input": "raw"}, {"instances": [ROW]}, "The header X-Input may be 'features', not 'raw'."),
        ({"X-Input": "features"}, {"instances": [{"temp": 1}]}, "The processed feature(s) 'flow', 'pressure' are missing."),
    ):
        refused = await client.post("/invocations", json=content, headers=headers)
        assert (refused.status_code, refused.json()["message"]) == (400, words)


async def test_the_strict_way_is_a_setting_that_the_error_names() -> None:
    source = ManyModels(PLANT)
    source.publish("plant-lightgbm", 2.0, champion=True)
    async with rest_server(PLANT, source, Limits(unknown="error")) as (_, client):
        for content, kind in plant_formats({**ROW, "operator": "x"}).values():
            refused = await invoke(client, content, kind)
            assert refused.status_code == 400
            assert (
                "'operator': is not a declared field; leave it out, or set COMPLEX_SYSTEM_SERVING_UNKNOWN_COLUMNS=ignore"
                in (refused.json()["message"])
            )


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_ones_own_row_is_taken_with_its_key_a_byte_order_mark_and_line_feeds(
    plant: tuple[ModelManager, httpx.AsyncClient], mark: bytes
) -> None:
    models, client = plant
    own = {"Charge": "B-0007", **ROW}
    predicted: list[str | None] = []
    bodies = [*plant_formats(own).values(), *plant_formats({**own, "Charge": 4711}).values()]
    for content, kind in bodies:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        answer = await invoke(client, mark + body + b"\n\n", kind)
        assert answer.json()["predictions"] == pytest.approx([SCALED]), answer.text
    for key, name in ((7, "7"), ("B-0007", "B-0007")):
        tensors = [
            {"name": "Charge", "shape": [1], "datatype": "INT64" if key == 7 else "BYTES", "data": [key]},
            *({"name": n, "shape": [1], "datatype": "FP64", "data": [v]} for n, v in ROW.items()),
        ]
        body = mark + json.dumps({"inputs": tensors}).encode() + b"\n"
        answer = await client.post("/v2/models/champion/infer", content=body)
        assert answer.json()["outputs"][0]["data"] == pytest.approx([SCALED]), answer.text
        for record in ({"Charge": key, **ROW}, [{"Charge": key, **ROW}], {"records": [{"Charge": key, **ROW}]}):
            answer = await client.post("/predict", content=mark + json.dumps(record).encode() + b"\n")
            assert answer.json()["predictions"] == pytest.approx([SCALED]), answer.text
        result = await PredictionEngine(models).predict([{"Charge": key, **ROW}])
        page = await PredictionEngine(models).predict_table(pa.Table.from_pylist([{"Charge": key, **ROW}]))
        predicted += [each.batch.head(1)[0]["_id"] for each in (result, page)]
        assert predicted[-2:] == [name, name]
    refused = await client.post("/predict", content=mark + json.dumps({"_id": "a", **own}).encode())
    assert refused.json()["error"]["faults"][0]["problem"] == "is the key, as '_id' is: send one of them"
    assert (await client.post("/predict", content=mark * 2 + b"{" * (len(mark) + 1))).status_code == 400


@pytest.mark.parametrize("path", ["/ping", "/health"])
async def test_ping_and_health_answer_with_a_line_feed_or_404(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.content) == (200, b"\n")
    async with rest_server(DATASET, ManyModels(DATASET)) as (_, unready):
        assert (await unready.get(path)).status_code == 404


async def test_version_is_mlflows(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = await client.get("/version")
    assert (answer.status_code, answer.text) == (200, mlflow.version.VERSION)
    # The images have MLflow's client alone.
    installed = {"mlflow-skinny": "3.5.1"}

    def version(package: str) -> str:
        if package not in installed:
            raise PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(scoring, "version", version)
    assert scoring.mlflow_version() == "3.5.1"
    installed.clear()
    assert scoring.mlflow_version() == __version__


BAD: dict[str, tuple[Any, str]] = {
    "a list": ([1, 2], "dictionary"),
    "a text": ("no json", "not JSON"),
    "no format": ({"data": []}, "exactly one"),
    "two formats": ({"instances": RECORDS, "inputs": RECORDS}, "exactly one"),
    "split no dictionary": ({"dataframe_split": []}, "dictionary with 'data'"),
    "split without data": ({"dataframe_split": {"columns": ["material_id"]}}, "dictionary with 'data'"),
    "split of raw records without columns": (
        {"dataframe_split": {"data": [["00000000"]]}},
        "need the names of their columns",
    ),
    "split with columns as a text": ({"dataframe_split": {"columns": "ab", "data": [[1, 2]]}}, "list of texts"),
    "split with a shorter index": ({"dataframe_split": {**split(FRAME), "index": [0]}}, "as long as its data: 3"),
    "split with an index that is no list": ({"dataframe_split": {**split(FRAME), "index": 7}}, "as long as its data: 3"),
    "split with a short row": (
        {"dataframe_split": {"columns": ["material_id", "laborant"], "data": [["00000000"]]}},
        "Row 0",
    ),
    "split with no rows": ({"dataframe_split": {"columns": ["material_id"], "data": []}}, "no record"),
    "split with equal columns": ({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, "different"),
    "records no list": ({"dataframe_records": {"material_id": "00000000"}}, "list of records"),
    "no records": ({"instances": []}, "no record"),
    "instances a mapping": ({"instances": {"material_id": ["00000000"]}}, "list of records"),
    "unequal inputs": ({"inputs": {"material_id": ["00000000"], "laborant": ["TK", "AN"]}}, "equally long"),
    "rows of another width": ({"inputs": [[1.0, 2.0]]}, "15 numbers"),
    "rows of texts": ({"inputs": [["x"] * 15]}, "record 0, 'laborant_AN': must be a number, not 'x'"),
    "rows of nothing": ({"inputs": [[None] * 15]}, "record 0, 'laborant_HANS': is missing"),
    "one feature beyond a float32": (
        {"instances": [[0.0] * 15, [0.0] * 14 + [1e39]]},
        "Record 1, field 'rohwert_3_labormessung': must be a finite number within 3.4e+38 in size, not 1e+39.",
    ),
    "a feature of 400 digits": ({"instances": [[10**399] + [0] * 14]}, "not 10000000000000000000... (400 digits)"),
    "huge features": ({"inputs": [[1e300] * 15]}, "finite"),
    "misspelled column": (
        {"dataframe_records": [{"material_id": "00000000", "rohwert1 labormessung": 3}]},
        "'rohwert1 labormessung': is not a declared field; is it 'rohwert_1_labormessung', which the record lacks?",
    ),
    "misspelled column of a frame": (
        {"dataframe_split": {"columns": ["material_id", "Laborant "], "data": [["00000000", "TK"]]}},
        "is it 'laborant', which the record lacks?",
    ),
    "some features among raw columns": (
        {"dataframe_records": [{"material_id": "00000000", "laborant_TK": 1}]},
        "is a processed feature, and raw columns are expected; /invocations takes features alone, with the header 'X-Input: features'",
    ),
    "a number in quotation marks": (
        {"dataframe_records": [{"material_id": "00000000", "rohwert_1_labormessung": "8,5"}]},
        "must be a number or nothing, not the text '8,5'; write 8.5",
    ),
    "out of range": (
        {"dataframe_records": [{"material_id": "00000000", "rohwert_1_labormessung": 31}]},
        "outside of [0, 30]",
    ),
    "NaN": (
        '{"dataframe_records": [{"material_id": "00000000", "rohwert_1_labormessung": NaN}]}',
        "not JSON in UTF-8: it holds NaN (byte 77, field 'rohwert_1_labormessung'), and numbers must be finite",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_errors_have_mlflows_shape_and_no_trace(client: httpx.AsyncClient, name: str) -> None:
    content, words = BAD[name]
    answer = await invoke(client, content)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert words in answer.json()["message"]
    assert set(answer.json()) == {"error_code", "message"}
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("material_id\n", "at least one line"),
        ("", "at least one line"),
        ("material_id,material_id\n1,2\n", "more than once"),
        ("material_id,laborant\n00000000\n", "Line 2"),
        ('material_id\n"00000000', "not CSV"),
        ("material_id,rohwert_1_labormessung\n00000000,much\n", "must be a number"),
        ("material_id,rohwert_1_labormessung\n00000000,1_0\n", "must be a number or nothing, not the text '1_0'"),
        ("material_id,rohwert_1_labormessung\n00000000,\uff11\n", "must be a number"),
        ("material_id,rohwert_1_labormessung\n00000000,inf\n", "finite"),
        (b"material_id\n\xff\n", "The body is not UTF-8 (invalid start byte at byte 12)"),
        ("Pr\xfcfer\n00000000\n".encode("cp1252"), "Excel saves UTF-8 as 'CSV UTF-8'"),
        ("Protokoll 7\nmaterial_id;laborant\n00000000;TK\n", "Line 2 names the columns, and 'Protokoll 7' stands above it"),
        (
            "Protokoll 7;\n;\nmaterial_id;laborant\n00000000;TK\n",
            "Line 3 names the columns, and 'Protokoll 7' stands above it",
        ),
        (
            'material_id,rohwert_1_labormessung\n00000000,"1,234"\n',
            "Record 0, field 'rohwert_1_labormessung': '1,234' can be 1234 or 1.234, and the column's other values do not say which",
        ),
        ("material_id;rohwert_1_labormessung\n00000000;1.234\n", "'1.234' can be 1234 or 1.234"),
        ("material_id;rohwert_1_labormessung\n00000000;1.234\n00000000;2,5\n", "'1.234' can be 1234 or 1.234"),
        ("material_id;rohwert_1_labormessung\n00000000;1.25\n00000000;2,5\n00000000;2,5\n", "another decimal sign"),
    ],
)
async def test_bad_csv_is_refused_with_a_message(client: httpx.AsyncClient, body: Any, words: str) -> None:
    answer = await invoke(client, body, "text/csv")
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["message"]


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/xml", "application/json; charset=latin-1", "application/json; x=y"]
)
async def test_another_content_type_is_415_as_plain_text(client: httpx.AsyncClient, kind: str) -> None:
    answer = await invoke(client, FORMATS["instances"], kind)
    assert answer.status_code == 415
    assert answer.headers["content-type"].startswith("text/plain")


async def test_without_a_model_an_invocation_is_503_in_mlflows_shape() -> None:
    async with rest_server(DATASET, ManyModels(DATASET)) as (_, client):
        answer = await invoke(client, FORMATS["instances"])
        assert answer.status_code == 503
        assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
