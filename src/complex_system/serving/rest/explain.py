"""``POST /explain``: predictions, and what each raw column contributes to them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from complex_system.http.responses import json_response
from complex_system.protocol.serving import ExplainedPrediction, ExplanationMethod
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.rest.endpoint import Backend, ErrorFormat, PredictingModel, PredictionRequest, Responses, Routes
from complex_system.serving.rest.schemas import records_body


class Explained(msgspec.Struct, frozen=True):
    """One explanation for each record, in the order of the records. Base and contributions add up to the prediction."""

    explanations: list[ExplainedPrediction]
    base: Annotated[float, msgspec.Meta(description="Mean prediction of the background records.")]
    background: Annotated[int, msgspec.Meta(description="Number of background records, of the model's training.")]
    method: Annotated[
        ExplanationMethod,
        msgspec.Meta(description="Whether all coalitions of columns were evaluated, or a sample of orders."),
    ]
    model: PredictingModel
    pipeline_version: str
    request_id: str


def explain_routes(backend: Backend, errors: ErrorFormat) -> list[Route]:
    """Return ``/explain``."""
    routes = Routes(backend, errors, "predict")
    refused = dict.fromkeys((400, 409, 413, 415, 422, 503), errors.schema)
    responses: Responses = {200: Explained, **refused}
    summary = "Predict raw records, with the contribution of each raw column"
    routes.add("/explain", explain, summary, responses, method="POST", body=records_body)
    return routes.routes


async def explain(request: PredictionRequest) -> Response:
    """Explain the predictions of raw records."""
    request.require_json()
    batch, predictor = await request.read(BatchReader.body)
    result = await request.backend.engine.explanations.explain(batch, predictor)
    request.outside = result.outside
    info = result.model
    content = Explained(
        list(result.explanations), result.base, result.background, result.method,
        PredictingModel(info.name, info.version, info.framework), info.pipeline_version, request.id,
    )  # fmt: skip
    return json_response(content, headers=request.answer_headers)
