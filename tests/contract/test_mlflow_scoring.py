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
import pytest

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.pipeline.pipeline import Pipeline
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
    "unknown column": ({"dataframe_records": [{"material_id": "00000000", "colour": 1}]}, "not a declared field"),
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
        (pd.DataFrame({"material_id": ["00000000"]}).to_csv(), "Record 0, field '': is not a declared field."),
        (b"material_id\n\xff\n", "not UTF-8"),
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
