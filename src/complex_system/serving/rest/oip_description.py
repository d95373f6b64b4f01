"""What the Open Inference Protocol says of a model: its metadata, and OpenAPI's description of a request."""

from __future__ import annotations

from typing import Any

import msgspec

from complex_system.domain.dataset import Dataset
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.rest.oip_tensors import FEATURES, Inputs, datatype_of
from complex_system.serving.rest.schemas import column_examples

OUTPUT = "prediction"
"""The one output of every model."""


def model_metadata(predictor: Predictor, name: str, versions: list[str]) -> dict[str, Any]:
    """What a model takes and gives: ``$metadata_model_response``."""
    dataset = predictor.pipeline.dataset
    inputs = [
        {"name": column.name, "datatype": datatype_of(column), "shape": [-1, 1]}
        for column in dataset.columns
        if column.name != dataset.target
    ]
    return {
        "name": name,
        "versions": versions,
        "platform": predictor.info.platform,
        "inputs": inputs,
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, 1]}],
    }


def inference_body(dataset: Dataset) -> dict[str, Any]:
    """OpenAPI's description of an inference request, with examples."""
    inputs = Inputs(dataset.columns)

    def data(name: str, values: list[Any]) -> list[Any]:
        return [msgspec.json.encode(value).decode() for value in values] if name in inputs.lists else values

    raw = [
        {"name": name, "shape": [2, 1], "datatype": inputs.datatypes[name], "data": data(name, values)}
        for name, values in column_examples(dataset, 2).items()
    ]
    width = len(dataset.feature_names)
    features = [{"name": FEATURES, "shape": [1, width], "datatype": "FP32", "data": [0.0] * width}]
    schema = {"$ref": "#/components/schemas/InferenceRequest"}
    examples = {
        "columns": {"summary": "Two records, one tensor a column", "value": {"id": "42", "inputs": raw}},
        "features": {
            "summary": "Processed features",
            "description": f"In the order {', '.join(dataset.feature_names)}.",
            "value": {"inputs": features, "outputs": [{"name": OUTPUT}]},
        },
    }
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
