"""JSON schemas of requests that no type of ours describes: raw records of a data set, and MLflow's formats."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from complex_system.domain.dataset import ID, Column, Dataset
from complex_system.domain.keys import MAX_KEY
from complex_system.domain.types import MAX_TEXT, column_type
from complex_system.pipeline.checks import range_text
from complex_system.serving.requests.examples import example_record, example_value
from complex_system.serving.requests.wanted import INTERVAL, WARNINGS

Schema = dict[str, Any]

RECORD, RECORDS, SCORING_REQUEST = "RawRecord", "Records", "ScoringRequest"
"""Names of the schemas in the documentation."""


def request_schemas(dataset: Dataset) -> dict[str, Schema]:
    """Return the schemas by name."""
    records: Schema = {
        "type": "object",
        "properties": {"records": _LIST, **_BESIDE},
        "required": ["records"],
        "additionalProperties": False,
    }
    return {RECORD: record_schema(dataset), RECORDS: records, SCORING_REQUEST: _SCORING_REQUEST}


def reference(name: str) -> Schema:
    """Return a reference to a schema of the documentation."""
    return {"$ref": f"#/components/schemas/{name}"}


def usual(schema: Any) -> Any:
    """Return msgspec's schema as generators of clients and readers like it.

    They do not know tuples nor lists of anything, and take the default null for a value; docstrings are written for Sphinx.
    """
    if isinstance(schema, list):
        return [usual(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: usual(value) for name, value in schema.items() if (name, value) != ("default", None)}
    if made.get("items") is False:
        made["items"] = made.pop("prefixItems")[0]
    elif made.get("type") == "array":
        made.setdefault("items", {})
    if isinstance(made.get("description"), str):
        made["description"] = inspect.cleandoc(made["description"]).replace("``", "`")
    return made


def record_schema(dataset: Dataset) -> Schema:
    """Return the schema of a raw record in a request for predictions."""
    properties: dict[str, Schema] = {
        ID: {
            "type": ["string", "null"],
            "maxLength": MAX_KEY,
            "description": "Key of the record; it goes into the prediction event.",
        }
    }
    if dataset.id and dataset.id not in dataset.by_name:
        about = f"The key under its own name, in place of '{ID}'."
        properties[dataset.id] = {"type": ["string", "integer"], "maxLength": MAX_KEY, "minLength": 1, "description": about}
    for column in dataset.columns:
        properties[column.name] = _column_schema(column, is_target=column.name == dataset.target)
    return {
        "type": "object",
        "description": dataset.description,
        "properties": properties,
        "required": [column.name for column in dataset.columns if not column.optional],
        "additionalProperties": False,
        "example": example_record(dataset),
    }


def records_body(dataset: Dataset) -> Schema:
    """Return OpenAPI's ``requestBody`` of ``POST /predict``."""
    examples = [example_record(dataset, position) for position in (0, 1)]
    return {
        "required": True,
        "description": "Raw records: in an object, as a plain list, or one record alone.",
        "content": {
            "application/json": {
                "schema": {"anyOf": [reference(RECORDS), _LIST, reference(RECORD)]},
                "examples": {
                    "records": {"summary": "Two records", "value": {"records": examples}},
                    "list": {"summary": "A plain list", "value": examples},
                    "one": {"summary": "One record alone", "value": examples[0]},
                    "intervals": {
                        "summary": "With 90 % intervals and warnings",
                        "value": {"records": examples, "interval": 0.9, "warnings": True},
                    },
                },
            }
        },
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
    elif column.range is not None and column.outside == "refuse":
        schema["minimum"], schema["maximum"] = column.range
    if column.type == "list of categories":
        schema["items"] = {"type": "string", "enum": list(column.categories)}
        schema["uniqueItems"] = True
    elif column.categories:
        schema["enum"] = [*column.categories, *column.spelled, *([None] if column.optional else [])]
    elif schema["type"] in ("string", ["string", "null"]):
        schema["maxLength"] = MAX_TEXT
    if column.type == "list of shares":
        schema["items"] = {"type": "number", "minimum": 0, "maximum": 1}
        notes.append("As many shares as the other list has entries; they add up to 1.")
    if column.censored:
        schema["type"] = ["number", "string", *(["null"] if column.optional else [])]
    notes += _readings(column)
    if column.fill is not None:
        notes.append(f"{_fill(column)} where it is missing.")
    if notes:
        schema["description"] = " ".join(note if note.endswith(".") else f"{note}." for note in notes)
    if not is_target:
        schema["example"] = example_value(column)
    return schema


def _readings(column: Column) -> Iterator[str]:
    """Yield how texts are read, and numbers outside of the range."""
    if column.range and column.outside != "refuse":
        done = "taken as it is" if column.outside == "warn" else "moved to its nearer end"
        yield f"A number outside of {range_text(column.range)} is {done}, and the answer says so."
    if column.format:
        yield f"Format: {column.format}."
    if column.censored:
        written = {"left": "'<0.01'", "right": "'>100'", "both": "'<0.01' or '>100'"}[column.censored]
        yield f"A value beyond a limit is a text such as {written}."
    if column.spelled:
        yield "Read are " + ", ".join(f"'{written}' as '{category}'" for written, category in column.spelled.items()) + "."


def _fill(column: Column) -> str:
    if column.type == "boolean":
        return "true" if column.fill else "false"
    return f"{column.fill:g}" if isinstance(column.fill, float) else f"'{column.fill}'"


_LIST: Schema = {"type": "array", "items": reference(RECORD), "minItems": 1}
_BESIDE: Schema = {
    INTERVAL: {
        "type": ["number", "null"],
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "description": "Level of the intervals in the answer: the probability that the truth lies within.",
    },
    WARNINGS: {"type": ["boolean", "null"], "description": "Whether the answer has the warnings of every record."},
}
_SCORING_REQUEST: Schema = {
    "type": "object",
    "description": "Exactly one of the formats.",
    "properties": {
        "dataframe_split": {
            "type": "object",
            "properties": {
                "columns": {"type": "array", "items": {"type": "string"}},
                "data": {"type": "array", "items": {"type": "array", "items": {}}},
            },
            "required": ["columns", "data"],
        },
        "dataframe_records": {"type": "array", "items": {"type": "object"}},
        "instances": {"type": "array", "items": {}},
        "inputs": {"type": ["object", "array"], "items": {}},
        "params": {"type": "object", "properties": _BESIDE},
    },
    "minProperties": 1,
}
