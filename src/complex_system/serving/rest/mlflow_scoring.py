"""MLflow's scoring protocol: requests of a client of ``mlflow models serve`` get the same responses.

Columns that are named as raw columns are raw records. Processed features, as our own registered models take them, are asked for with
the header ``X-Input: features``; without it they are recognised only by names or a width that raw records cannot have.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError, InvalidRequestError, error_text
from complex_system.http.responses import json_response
from complex_system.serving.engine import PredictionResult, off_loop
from complex_system.serving.requests.batch import Batch
from complex_system.serving.requests.column_names import FEATURES, FEATURES_HEADER
from complex_system.serving.requests.csv import csv_columns, csv_text
from complex_system.serving.requests.examples import example_columns, example_record
from complex_system.serving.requests.json import json_of
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.requests.wanted import NOTHING, wanted_of
from complex_system.serving.rest.endpoint import Backend, ErrorFormat, PredictionRequest, Responses, Routes
from complex_system.serving.rest.schemas import SCORING_REQUEST, Schema, reference

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_HEADER = FEATURES_HEADER.lower().encode()
_WANTED = (
    "The input must be a JSON dictionary with exactly one of the input fields 'dataframe_split', 'dataframe_records', 'instances', "
    "'inputs'"
)
_ABOUT = (
    "Raw records, in any of the formats. Columns that are not declared are ignored unless the service is set otherwise. Processed "
    f"features are sent with the header `{FEATURES_HEADER}: {FEATURES}`, or as the tensor `{FEATURES}` of `inputs`."
)
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "BAD_REQUEST",
    413: "BAD_REQUEST",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "TEMPORARILY_UNAVAILABLE",
}


class ScoredRecord(msgspec.Struct, frozen=True):
    """A prediction with what ``params`` asked for beside it: a row of several columns, as a model of MLflow returns it."""

    prediction: float
    lower: float | msgspec.UnsetType = msgspec.UNSET
    upper: float | msgspec.UnsetType = msgspec.UNSET
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class ScoringPredictions(msgspec.Struct, frozen=True):
    """One prediction for each record."""

    predictions: list[float | ScoredRecord]


class ScoringError(msgspec.Struct, frozen=True):
    """An error as MLflow writes it, without the stack trace."""

    error_code: str
    message: str


def _error(error: ComplexSystemError, status: int) -> ScoringError:
    return ScoringError(_CODES.get(status, "INTERNAL_ERROR"), error_text(error))


SCORING_ERRORS = ErrorFormat(ScoringError, _error)


def scoring_routes(backend: Backend) -> list[Route]:
    """Return ``/invocations``, ``/ping``, ``/health`` and ``/version``."""
    routes = Routes(backend, SCORING_ERRORS, "MLflow scoring")
    other_type = {"description": "Another content type", "content": {"text/plain": {"schema": {"type": "string"}}}}
    responses: Responses = {
        200: ScoringPredictions, 400: ScoringError, 409: ScoringError, 413: ScoringError, 415: other_type, 503: ScoringError,
    }  # fmt: skip
    summary = "Predict as MLflow's scoring server"
    routes.add("/invocations", invocations, summary, responses, method="POST", body=scoring_body)
    # Text without quotes that is called JSON, as MLflow's server sends it, so the document gives it no schema.
    summary = "Version of MLflow as text, or of this service where it is not installed"
    routes.add("/version", server_version, summary, {200: {"description": "Successful Response"}})
    probes = Routes(backend, SCORING_ERRORS, "MLflow scoring", is_open=True)
    for path in ("/ping", "/health"):
        responses = {200: {"description": "An empty line"}, 404: {"description": "Not ready yet"}}
        probes.add(path, ping, "Whether predictions can be made", responses)
    return routes.routes + probes.routes


async def invocations(request: PredictionRequest) -> Response:
    """Predict records or features in one of the formats."""
    media_type, problem = _media_type(request.header(b"content-type"))
    if problem:
        return Response(problem, 415, media_type="text/plain")
    read = read_csv if media_type == "text/csv" else read_json
    if wanted := request.header(_HEADER):
        if wanted.strip().lower() != FEATURES:
            raise InvalidRequestError(f"The header {FEATURES_HEADER} may be '{FEATURES}', not '{wanted[:40]}'.")
        read = partial(read, as_features=True)
    result = await request.predict(read)
    response: Response = await off_loop(result.batch.size, _scored, result, request)
    return response


def _scored(result: PredictionResult, request: PredictionRequest) -> Response:
    predictions: list[Any] = result.predictions
    if beside := result.columns():
        rows = zip(result.predictions, *beside.values(), strict=True)
        predictions = [ScoredRecord(each, **dict(zip(beside, row, strict=True))) for each, *row in rows]
    return json_response(ScoringPredictions(predictions), headers=request.answer_headers)


async def ping(request: PredictionRequest) -> Response:
    """Tell whether predictions can be made."""
    return Response("\n", 200 if request.backend.is_ready else 404, media_type="application/json")


async def server_version(_: PredictionRequest) -> Response:
    """Return the version of MLflow."""
    return Response(_VERSION, media_type="application/json")


def read_json(reader: BatchReader, body: bytes, *, as_features: bool = False) -> Batch:
    """A JSON body; with ``as_features`` it has processed features.

    Raises:
        InvalidRequestError: It is none of the formats.
        InvalidRecordError: A record is malformed.
    """
    content = json_of(body)
    if not isinstance(content, dict):
        raise InvalidRequestError(
            f"{_WANTED}. Received a {'list' if isinstance(content, list) else type(content).__name__}."
        )
    given = [name for name in FORMATS if name in content]
    if len(given) != 1:
        raise InvalidRequestError(f"{_WANTED}. Received the input fields {[name[:40] for name in list(content)[:10]]}.")
    value, read, params = content[given[0]], _Reading(reader, as_features), content.get("params")
    wanted = wanted_of(params) if isinstance(params, dict) else NOTHING
    if given[0] == "dataframe_split":
        batch = _split(value, read)
    elif given[0] == "dataframe_records":
        batch = read.records(value)
    else:
        batch = _tensors(given[0], value, read)
    batch.wanted = wanted
    return batch


def read_csv(reader: BatchReader, body: bytes, *, as_features: bool = False) -> Batch:
    """A CSV body with a header; an empty field is a missing value. With ``as_features`` it has processed features.

    Raises:
        InvalidRequestError: The body is not CSV in UTF-8 with a header.
        InvalidRecordError: A record is malformed.
    """
    declared = () if as_features else reader.declared
    return _Reading(reader, as_features).columns(csv_columns(body, declared, reader.names.key))


@dataclass(frozen=True)
class _Reading:
    """Reads records, columns and rows of one request as raw records or as processed features."""

    reader: BatchReader
    as_features: bool

    @property
    def _features(self) -> tuple[str, ...]:
        return self.reader.pipeline.dataset.feature_names

    def records(self, value: Any) -> Batch:
        """Records as mappings."""
        if isinstance(value, list) and value and isinstance(value[0], dict) and self._are_features(value[0]):
            names = self._features
            for position, record in enumerate(value):
                if not isinstance(record, dict) or not record.keys() >= set(names):
                    raise InvalidRequestError(f"Record {position} must have the processed features {_listed(names)}.")
            return self.rows([[record[name] for name in names] for record in value])
        return self.reader.records(value, scoring=True)

    def columns(self, columns: dict[str, Any]) -> Batch:
        """Columns by name."""
        if self._are_features(columns):
            ordered = [columns[name] for name in self._features]
            if len({len(values) for values in ordered}) != 1:
                raise InvalidRequestError("All columns must be equally long.")
            return self.rows(list(zip(*ordered, strict=True)))
        return self.reader.columns(columns, scoring=True)

    def rows(self, rows: list[Any]) -> Batch:
        """Features in their order, without names."""
        width = len(self._features)
        for position, row in enumerate(rows):
            if not isinstance(row, list | tuple) or len(row) != width:
                raise InvalidRequestError(
                    f"Row {position} must have {width} numbers, the processed features in their order; raw records need the "
                    "names of their columns."
                )
        return self.reader.features([value for row in rows for value in row], (len(rows), width))

    def unnamed_rows(self, rows: list[Any]) -> Batch:
        """Rows without names, which are features; what may be raw values is refused."""
        numeric = [column for column in self.reader.pipeline.dataset.columns if column.type in ("number", "integer")]
        if not self.as_features and len(self._features) <= len(numeric):
            raise InvalidRequestError(
                "Rows without column names may be raw values or processed features: send raw values with their names, as in "
                f"dataframe_split with 'columns', and features with the header '{FEATURES_HEADER}: {FEATURES}'."
            )
        return self.rows(rows)

    def _are_features(self, names: Collection[str]) -> bool:
        """Return whether these are columns of features: where they are asked for, or have names that no raw column has."""
        known = self.reader.names
        if not self.as_features:
            return len(names) == len(known.features) and bool(known.made) and known.features.issuperset(names)
        if missing := [name for name in self._features if name not in names]:
            raise InvalidRequestError(f"The processed feature(s) {_listed(missing)} are missing.")
        return True


def _split(value: Any, read: _Reading) -> Batch:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise InvalidRequestError("'dataframe_split' must be a dictionary with 'data' and, for raw records, 'columns'.")
    if unknown := set(value) - {"columns", "data", "index"}:
        raise InvalidRequestError(f"'dataframe_split' has no field {sorted(unknown)[0][:40]!r}.")
    columns, rows, index = value.get("columns"), value["data"], value.get("index")
    if index is not None and (not isinstance(index, list) or len(index) != len(rows)):
        raise InvalidRequestError(f"The index of 'dataframe_split' must be a list as long as its data: {len(rows)}.")
    if columns is None:
        return read.unnamed_rows(rows)
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise InvalidRequestError("The columns of 'dataframe_split' must be a list of texts.")
    if len(set(columns)) != len(columns):
        raise InvalidRequestError("The columns of 'dataframe_split' must be different texts.")
    for position, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            raise InvalidRequestError(f"Row {position} of 'dataframe_split' must be a list of {len(columns)} values.")
    if not rows or not columns:
        raise InvalidRequestError("There is no record in the request.")
    return read.columns(dict(zip(columns, zip(*rows, strict=True), strict=True)))


def _tensors(name: str, value: Any, read: _Reading) -> Batch:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return read.unnamed_rows(value)
    if isinstance(value, dict) and name == "inputs":
        if list(value) == [FEATURES] and isinstance(value[FEATURES], list) and not read.reader.names.is_declared(FEATURES):
            return read.rows(value[FEATURES])
        lists = {column: each if isinstance(each, list) else [each] for column, each in value.items()}
        # A tensor of one column may come as rows of one value.
        flat = {
            column: [row[0] for row in each]
            if each and all(isinstance(row, list) and len(row) == 1 for row in each)
            else each
            for column, each in lists.items()
        }
        return read.columns(flat)
    if not isinstance(value, list):
        raise InvalidRequestError(f"'{name}' must be a list of records{' or columns by name' if name == 'inputs' else ''}.")
    return read.records(value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name[:60]}'" for name in names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def scoring_body(dataset: Dataset) -> Schema:
    """Return OpenAPI's description of the formats, with examples."""
    columns = example_columns(dataset, 2)
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    records = [example_record(dataset, position) for position in (0, 1)]
    examples: Schema = {
        "dataframe_split": {"value": {"dataframe_split": {"columns": list(columns), "data": rows}}},
        "dataframe_records": {"value": {"dataframe_records": records}},
        "instances": {"value": {"instances": records}},
        "inputs": {"value": {"inputs": columns}},
        "intervals": {
            "summary": "With 90 % intervals and warnings",
            "value": {"dataframe_records": records, "params": {"interval": 0.9, "warnings": True}},
        },
    }
    if FEATURES not in dataset.by_name:
        processed = [[0.0] * len(dataset.feature_names)]
        about = f"In the order {', '.join(dataset.feature_names)}."
        examples["features"] = {
            "summary": "Processed features",
            "description": about,
            "value": {"inputs": {FEATURES: processed}},
        }
    return {
        "required": True,
        "description": _ABOUT,
        "content": {
            "application/json": {"schema": reference(SCORING_REQUEST), "examples": examples},
            "text/csv": {"schema": {"type": "string"}, "example": csv_text(columns)},
        },
    }


def _media_type(header: str) -> tuple[str, str]:
    """Return the media type of a content type, and what is wrong with it."""
    kind, *parameters = (part.strip() for part in header.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() != "charset":
            return kind, f"Unrecognized content type parameters: {key[:40]}."
        if value.strip(' "').lower() != "utf-8":
            return kind, "The scoring server only supports UTF-8"
    if kind.lower() not in ("application/json", "text/csv"):
        return kind, (
            "This predictor only supports the following content types: Types: ['text/csv', 'application/json']. "
            f"Got '{header[:100]}'."
        )
    return kind.lower(), ""


def mlflow_version() -> str:
    """Return the version that ``/version`` tells."""
    for package in ("mlflow", "mlflow-skinny"):  # the images have the client without its server
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return __version__


_VERSION = mlflow_version()
