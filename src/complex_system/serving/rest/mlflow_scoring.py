"""MLflow's scoring protocol: what a client of ``mlflow models serve`` sends is answered in the same shape.

A frame or tensor with the processed features, as our own registered models take them, is recognised by its columns or its width;
everything else is raw records.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, Response
from typing_extensions import override

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError, InvalidRequestError
from complex_system.serving.requests.batch import Batch
from complex_system.serving.requests.bodies import json_of
from complex_system.serving.requests.csv import csv_columns, csv_text
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.rest.calls import (
    REQUEST_ID,
    Call,
    OpenRoute,
    ServingRoute,
    challenge,
    json_response,
    sentences,
    status_of,
)
from complex_system.serving.rest.schemas import answers, column_examples, example_record

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_WANTED = (
    "The input must be a JSON dictionary with exactly one of the input fields 'dataframe_split', 'dataframe_records', 'instances', "
    "'inputs'"
)
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    404: "RESOURCE_DOES_NOT_EXIST",
    413: "BAD_REQUEST",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "TEMPORARILY_UNAVAILABLE",
}


class ScoringRoute(ServingRoute):
    """Errors as ``{"error_code", "message"}``, as MLflow writes them, and never a stack trace."""

    error_schema = "ScoringError"

    @override
    def refusal(self, error: ComplexSystemError, call: Call) -> Response:
        status = 400 if error.code == "invalid_record" else status_of(error)
        content = {"error_code": _CODES.get(status, "INTERNAL_ERROR"), "message": sentences(error)}
        return json_response(content, status, {REQUEST_ID: call.id, **challenge(status)})


class ScoringOpenRoute(ScoringRoute, OpenRoute):
    """The probes of the protocol."""


def scoring_router() -> APIRouter:
    """``/invocations``, ``/ping``, ``/health`` and ``/version``."""
    scoring = ScoringReader()
    router = APIRouter(route_class=ScoringRoute, tags=["MLflow scoring"])
    refused = answers(dict.fromkeys((400, 413, 503), "ScoringError"))
    extra = {"responses": answers({200: "ScoringPredictions"}) | refused}
    extra["responses"]["415"] = {
        "description": "Another content type",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }

    @router.post("/invocations", summary="Predict as MLflow's scoring server", openapi_extra=extra)
    async def invocations(call: Call) -> Response:
        kind, problem = _content_type(call.headers.get("content-type", ""))
        if problem:
            return Response(problem, 415, media_type="text/plain")
        batch = await call.read(scoring.csv if kind == "text/csv" else scoring.json)
        result = await call.predict(batch)
        return json_response({"predictions": result.predictions}, headers={REQUEST_ID: call.id})

    async def ping(call: Call) -> Response:
        return Response("\n", 200 if call.gate.ready else 404, media_type="application/json")

    unready = {"responses": {"200": {"description": "An empty line"}, "404": {"description": "Not ready yet"}}}
    for path in ("/ping", "/health"):
        router.add_api_route(
            path,
            ping,
            summary="Whether predictions can be made",
            route_class_override=ScoringOpenRoute,
            openapi_extra=unready,
            response_class=Response,
        )

    # Text without quotes that is called JSON, as MLflow's server has it, so the document gives it no schema.
    @router.get(
        "/version",
        summary="Version of MLflow as text, or of this service where it is not installed",
        response_class=Response,
    )
    async def server_version(call: Call) -> Response:
        return Response(_VERSION, media_type="application/json")

    return router


class ScoringReader:
    """Reads the formats of the protocol."""

    def json(self, body: bytes, reader: BatchReader) -> Batch:
        """A JSON body.

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
        value = content[given[0]]
        if given[0] == "dataframe_split":
            return self._split(value, reader)
        if given[0] == "dataframe_records":
            return self._records(value, reader)
        return self._tensors(given[0], value, reader)

    def csv(self, body: bytes, reader: BatchReader) -> Batch:
        """A CSV body with a header; an empty field is a missing value.

        Raises:
            InvalidRequestError: It is no CSV in UTF-8 with a header.
            InvalidRecordError: A record is malformed.
        """
        return self._columns(csv_columns(body, reader.declared), reader)

    def _split(self, value: Any, reader: BatchReader) -> Batch:
        if not isinstance(value, dict) or not isinstance(value.get("data"), list):
            raise InvalidRequestError("'dataframe_split' must be a dictionary with 'data' and, for raw records, 'columns'.")
        if unknown := set(value) - {"columns", "data", "index"}:
            raise InvalidRequestError(f"'dataframe_split' has no field {sorted(unknown)[0][:40]!r}.")
        columns, rows, index = value.get("columns"), value["data"], value.get("index")
        if index is not None and (not isinstance(index, list) or len(index) != len(rows)):
            raise InvalidRequestError(f"The index of 'dataframe_split' must be a list as long as its data: {len(rows)}.")
        if columns is None:
            return self._matrix(rows, reader)
        if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
            raise InvalidRequestError("The columns of 'dataframe_split' must be a list of texts.")
        if len(set(columns)) != len(columns):
            raise InvalidRequestError("The columns of 'dataframe_split' must be different texts.")
        for position, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != len(columns):
                raise InvalidRequestError(f"Row {position} of 'dataframe_split' must be a list of {len(columns)} values.")
        if not rows or not columns:
            raise InvalidRequestError("There is no record in the request.")
        return self._columns(dict(zip(columns, zip(*rows, strict=True), strict=True)), reader)

    def _records(self, value: Any, reader: BatchReader) -> Batch:
        names = reader.pipeline.dataset.feature_names
        features = set(names)
        if isinstance(value, list) and value and isinstance(value[0], dict) and set(value[0]) == features:
            if not all(isinstance(each, dict) and set(each) == features for each in value):
                raise InvalidRequestError("All records must have the same columns.")
            return self._matrix([[each[name] for name in names] for each in value], reader)
        return reader.records(value)

    def _tensors(self, name: str, value: Any, reader: BatchReader) -> Batch:
        if isinstance(value, list) and value and isinstance(value[0], list):
            return self._matrix(value, reader)
        if isinstance(value, dict) and name == "inputs":
            lists = {column: each if isinstance(each, list) else [each] for column, each in value.items()}
            # A tensor of one column may come as rows of one value.
            flat = {
                column: [row[0] for row in each]
                if each and all(isinstance(row, list) and len(row) == 1 for row in each)
                else each
                for column, each in lists.items()
            }
            return self._columns(flat, reader)
        if not isinstance(value, list):
            raise InvalidRequestError(
                f"'{name}' must be a list of records{' or columns by name' if name == 'inputs' else ''}."
            )
        return self._records(value, reader)

    def _columns(self, columns: dict[str, Any], reader: BatchReader) -> Batch:
        names = reader.pipeline.dataset.feature_names
        if set(columns) == set(names):
            ordered = [columns[name] for name in names]
            if len({len(values) for values in ordered}) != 1:
                raise InvalidRequestError("All columns must be equally long.")
            return self._matrix(list(zip(*ordered, strict=True)), reader)
        return reader.columns(columns)

    def _matrix(self, rows: list[Any], reader: BatchReader) -> Batch:
        width = len(reader.pipeline.dataset.feature_names)
        for position, row in enumerate(rows):
            if not isinstance(row, list | tuple) or len(row) != width:
                raise InvalidRequestError(
                    f"Row {position} must have {width} numbers, the processed features in their order; raw records need the "
                    "names of their columns."
                )
        return reader.features([value for row in rows for value in row], (len(rows), width))


def scoring_body(dataset: Dataset) -> dict[str, Any]:
    """OpenAPI's description of the formats, with examples."""
    columns = column_examples(dataset, 2)
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    records = [example_record(dataset, position) for position in (0, 1)]
    examples = {
        "dataframe_split": {"value": {"dataframe_split": {"columns": list(columns), "data": rows}}},
        "dataframe_records": {"value": {"dataframe_records": records}},
        "instances": {"value": {"instances": records}},
        "inputs": {"value": {"inputs": columns}},
    }
    return {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ScoringRequest"}, "examples": examples},
            "text/csv": {"schema": {"type": "string"}, "example": csv_text(columns)},
        },
    }


def _content_type(header: str) -> tuple[str, str]:
    """The media type, and what is wrong with it."""
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
    """The version that ``/version`` says."""
    for package in ("mlflow", "mlflow-skinny"):  # the images have the client without its server
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return __version__


_VERSION = mlflow_version()
