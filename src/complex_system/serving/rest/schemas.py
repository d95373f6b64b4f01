"""The JSON schemas of the REST interface, made from the declared data set."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from complex_system.domain.dataset import ID, Column, Dataset
from complex_system.domain.records import Record
from complex_system.domain.types import MAX_TEXT, column_type

Schema = dict[str, Any]

_EXAMPLE_TIME = datetime(2025, 1, 31, 13, 45)  # noqa: DTZ001 - the declared formats carry no zone


def example_record(dataset: Dataset, position: int = 0) -> Record:
    """A raw record that the pipeline takes, without its target and others that may be missing; positions give different ones."""
    return {
        column.name: _example(column, position)
        for column in dataset.columns
        if column.name != dataset.target and not (column.name in dataset.other_targets and column.optional)
    }


def column_examples(dataset: Dataset, count: int) -> dict[str, list[Any]]:
    """The columns of ``count`` example records."""
    records = [example_record(dataset, position) for position in range(count)]
    return {name: [record[name] for record in records] for name in records[0]}


def answers(schemas: dict[int, str]) -> dict[str, Any]:
    """OpenAPI's ``responses``: status to the name of a schema in :func:`components`."""
    return {
        str(status): {
            "description": _MEANINGS[status],
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
        }
        for status, name in schemas.items()
    }


_MEANINGS = {
    200: "The answer",
    400: "The request is not what is taken",
    401: "The API key is missing or wrong, where one is set",
    404: "No such model",
    413: "Too many bytes or records; the message says how to split",
    422: "A record is not as the data set declares it",
    503: "No model yet, or it cannot be served",
}


def record_schema(dataset: Dataset) -> Schema:
    """What a raw record looks like in a request for predictions."""
    properties: dict[str, Schema] = {
        ID: {
            "type": ["string", "null"],
            "maxLength": 64,
            "description": "Key of the record; it goes into the prediction event.",
        }
    }
    for column in dataset.columns:
        properties[column.name] = _column_schema(column, is_target=column.name == dataset.target)
    return {
        "type": "object",
        "title": f"Raw record of '{dataset.name}'",
        "description": dataset.description,
        "properties": properties,
        "required": [column.name for column in dataset.columns if not column.optional],
        "additionalProperties": False,
        "example": example_record(dataset),
    }


def request_body(dataset: Dataset) -> Schema:
    """OpenAPI's ``requestBody`` of ``POST /predict``."""
    record: Schema = {"$ref": "#/components/schemas/RawRecord"}
    records: Schema = {"type": "array", "items": record, "minItems": 1}
    examples = [example_record(dataset, position) for position in (0, 1)]
    return {
        "required": True,
        "description": "Raw records: in an object, as a plain list, or one record alone.",
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {
                            "type": "object",
                            "title": "Records",
                            "properties": {"records": records},
                            "required": ["records"],
                            "additionalProperties": False,
                        },
                        records,
                        record,
                    ]
                },
                "examples": {
                    "records": {"summary": "Two records", "value": {"records": examples}},
                    "list": {"summary": "A plain list", "value": examples},
                    "one": {"summary": "One record alone", "value": examples[0]},
                },
            }
        },
    }


def components(dataset: Dataset) -> dict[str, Schema]:
    """The named schemas that requests and answers refer to."""
    text: Schema = {"type": "string"}
    return {
        **_protocols(),
        "RawRecord": record_schema(dataset),
        "Predictions": {
            "type": "object",
            "properties": {
                "predictions": {
                    "type": "array",
                    "items": {"type": "number"},
                    "description": f"One value of '{dataset.target}' a record, in the order of the records{_unit(dataset)}.",
                },
                "model": {
                    "type": "object",
                    "properties": {"name": text, "version": text, "framework": text},
                    "required": ["name", "version", "framework"],
                },
                "pipeline_version": {**text, "example": dataset.version},
                "request_id": text,
            },
            "required": ["predictions", "model", "pipeline_version", "request_id"],
        },
        "Error": {
            "type": "object",
            "properties": {
                "error": {
                    "type": "object",
                    "properties": {
                        "code": {**text, "description": "Stable; programs decide by it."},
                        "message": text,
                        "faults": {
                            "type": "array",
                            "description": "The first 20 faults of the records.",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "record": {"type": "integer"},
                                    "id": {"type": ["string", "null"]},
                                    "field": {"type": ["string", "null"]},
                                    "problem": text,
                                },
                            },
                        },
                    },
                    "required": ["code", "message", "faults"],
                }
            },
            "required": ["error"],
        },
    }


def _protocols() -> dict[str, Schema]:
    """The schemas of the protocols that others specified."""
    text: Schema = {"type": "string"}
    parameters: Schema = {"type": ["object", "null"]}
    output: Schema = {"type": "object", "properties": {"name": text, "parameters": parameters}, "required": ["name"]}
    shape: Schema = {"type": "array", "items": {"type": "integer"}}
    tensor: Schema = {
        "type": "object",
        "properties": {
            "name": text,
            "shape": shape,
            "datatype": text,
            "parameters": parameters,
            "data": {"type": "array", "items": {}},
        },
        "required": ["name", "shape", "datatype", "data"],
    }
    described: Schema = {
        "type": "object",
        "properties": {"name": text, "datatype": text, "shape": shape},
        "required": ["name", "datatype", "shape"],
    }

    def thing(required: list[str], **properties: Schema) -> Schema:
        return {"type": "object", "properties": properties, "required": required}

    def many(items: Schema) -> Schema:
        return {"type": "array", "items": items}

    return {
        "InferenceRequest": thing(
            ["inputs"],
            id={"type": ["string", "null"]},
            parameters=parameters,
            inputs={**many(tensor), "minItems": 1},
            outputs={"type": ["array", "null"], "items": output},
        ),
        "InferenceResponse": thing(
            ["model_name", "outputs"],
            model_name=text,
            model_version=text,
            id=text,
            parameters=parameters,
            outputs=many(tensor),
        ),
        "InferenceError": thing(["error"], error=text),
        "ModelMetadata": thing(
            ["name", "platform", "inputs", "outputs"],
            name=text,
            versions=many(text),
            platform=text,
            inputs=many(described),
            outputs=many(described),
        ),
        "ModelReady": thing(["name", "ready"], name=text, ready={"type": "boolean"}),
        "ServerReady": thing(["ready"], ready={"type": "boolean"}, live={"type": "boolean"}),
        "ScoringRequest": {
            "type": "object",
            "description": "Exactly one of the formats.",
            "properties": {
                "dataframe_split": thing(["columns", "data"], columns=many(text), data=many({"type": "array", "items": {}})),
                "dataframe_records": many({"type": "object"}),
                "instances": many({}),
                "inputs": {"type": ["object", "array"], "items": {}},
            },
            "minProperties": 1,
        },
        "ScoringPredictions": thing(["predictions"], predictions=many({"type": "number"})),
        "ScoringError": thing(["error_code", "message"], error_code=text, message=text),
    }


def _column_schema(column: Column, *, is_target: bool) -> Schema:
    schema: Schema = dict(column_type(column).json)
    if column.optional:
        schema["type"] = [schema["type"], "null"]
    notes = [column.description] if column.description else []
    if column.unit:
        notes.append(f"Unit: {column.unit}.")
    if is_target:
        notes.append("Ignored in a request: it is what is predicted.")
    elif column.range is not None:
        schema["minimum"], schema["maximum"] = column.range
    if column.type == "list of categories":
        schema["items"] = {"type": "string", "enum": list(column.categories)}
        schema["uniqueItems"] = True
    elif column.categories:
        schema["enum"] = [*column.categories, *([None] if column.optional else [])]
    elif schema["type"] in ("string", ["string", "null"]):
        schema["maxLength"] = MAX_TEXT
    if column.type == "list of shares":
        schema["items"] = {"type": "number", "minimum": 0, "maximum": 1}
        notes.append("As many shares as the other list has entries; they add up to 1.")
    if column.format:
        notes.append(f"Format: {column.format}.")
    if column.fill is not None:
        notes.append(f"{_fill(column)} where it is missing.")
    if notes:
        schema["description"] = " ".join(note if note.endswith(".") else f"{note}." for note in notes)
    if not is_target:
        schema["example"] = _example(column, 0)
    return schema


def _fill(column: Column) -> str:
    if column.type == "boolean":
        return "true" if column.fill else "false"
    return f"{column.fill:g}" if isinstance(column.fill, float) else f"'{column.fill}'"


def _example(column: Column, position: int) -> Any:
    if column.categories:
        category = column.categories[position % len(column.categories)]
        return [category] if column.type == "list of categories" else category
    if column.type == "list of shares":
        return [1.0]
    if column.type == "boolean":
        return position % 2 == 0
    if column.type in ("number", "integer"):
        low, high = column.range or (0.0, 1.0)
        middle = low + (high - low) * (0.5 + 0.25 * (position % 2))
        return (
            min(max(math.floor(middle), math.ceil(low)), math.floor(high))
            if column.type == "integer"
            else _rounded(middle, low, high)
        )
    if column.type == "datetime":
        return _EXAMPLE_TIME.strftime(column.format) if column.format else _EXAMPLE_TIME.isoformat()
    return "text"


def _rounded(value: float, low: float, high: float) -> float:
    rounded = round(value, 6)
    return rounded if low <= rounded <= high else value


def _unit(dataset: Dataset) -> str:
    unit = dataset.column(dataset.target).unit
    return f", in {unit}" if unit else ""
