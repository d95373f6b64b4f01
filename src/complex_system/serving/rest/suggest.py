"""``POST /suggest``: settings that reach a value or an extreme."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from complex_system.domain.dataset import Dataset
from complex_system.errors import InvalidRequestError, TooLargeError
from complex_system.http.responses import json_response
from complex_system.protocol.base import decode
from complex_system.protocol.trial import SUGGEST_SETTINGS, Suggestions, SuggestRequest
from complex_system.serving.requests.examples import example_record
from complex_system.serving.requests.json import json_of
from complex_system.serving.rest.endpoint import LONG_BODY, Backend, ErrorFormat, PredictionRequest, Responses, Routes
from complex_system.serving.rest.schemas import Schema, reference
from complex_system.serving.suggest.space import free_columns
from complex_system.serving.suggest.suggester import Suggester

_FIELDS = SuggestRequest.__struct_encode_fields__


def suggest_routes(backend: Backend, errors: ErrorFormat, suggester: Suggester) -> list[Route]:
    """Return ``/suggest``.

    Args:
        backend: What all routes share.
        errors: How errors are written.
        suggester: Searches.
    """

    async def suggest(request: PredictionRequest) -> Response:
        request.require_json()
        body = await request.body()
        if len(body) > LONG_BODY:
            raise TooLargeError(
                f"The body has {len(body)} bytes; a request for settings has one record, and at most {LONG_BODY}."
            )
        found = await suggester.suggest(_asked(body))
        return json_response(msgspec.structs.replace(found, request_id=request.id), headers=request.answer_headers)

    routes = Routes(backend, errors, "suggest")
    responses: Responses = {200: Suggestions} | dict.fromkeys((400, 409, 413, 415, 422, 503), errors.schema)
    about = "Find settings for a value or an extreme"
    routes.add("/suggest", suggest, about, responses, method="POST", body=_body, predicts=False)
    return routes.routes


def _asked(body: bytes) -> SuggestRequest:
    content = json_of(body)
    if isinstance(content, dict) and (unknown := [str(name) for name in content if name not in _FIELDS]):
        raise InvalidRequestError(f"The field '{unknown[0][:100]}' is not known. Fields are: {', '.join(_FIELDS)}.")
    asked: SuggestRequest = decode(content, SuggestRequest, SUGGEST_SETTINGS.name)
    return asked


def _body(dataset: Dataset) -> Schema:
    """Return OpenAPI's ``requestBody``, with an example for each kind of goal."""
    free = free_columns(dataset)[:2]
    record = {name: value for name, value in example_record(dataset).items() if name not in free}
    asked: dict[str, Any] = {"free": free, "record": record, "count": 2, "seconds": 2}
    return {
        "required": True,
        "description": "What is wanted, which columns are free, and the values of the others.",
        "content": {
            "application/json": {
                "schema": reference(SuggestRequest.__name__),
                "examples": {
                    "extreme": {"summary": "The largest prediction", "value": {"goal": "maximum", **asked}},
                    "value": {"summary": "A value", "value": {"goal": "value", "value": 100.0, **asked}},
                },
            }
        },
    }
