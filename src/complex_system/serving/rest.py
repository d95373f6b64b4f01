"""The REST interface: decodes, asks the engine, encodes. Nothing about models is decided here."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from typing_extensions import override
from uuid6 import uuid7

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.errors import (
    ComplexSystemError,
    InternalError,
    InvalidRecordError,
    InvalidRequestError,
    TooLargeError,
    UnauthorizedError,
)
from complex_system.serving.bodies import LARGE_BODY, decoded
from complex_system.serving.engine import PredictionEngine
from complex_system.serving.schemas import components, request_body

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
_LARGE_AT_ONCE = 4  # decoded, a body takes several times its bytes

HTTP_STATUS = {
    "invalid_request": 400,
    "unauthorized": 401,
    "invalid_record": 422,
    "too_large": 413,
    "no_model": 503,
    "model_refused": 503,
    "nobody_listens": 503,
    "tracking_unavailable": 503,
    "reply_timeout": 504,
}
"""The HTTP status of every error code; 500 for what is not here."""


@dataclass(frozen=True)
class Limits:
    """What one request may hold."""

    body_bytes: int = 32 * 1024 * 1024
    records: int = 100_000


def make_app(engine: PredictionEngine, dataset: Dataset, limits: Limits | None = None, api_key: str = "") -> FastAPI:
    """The application that serves an engine.

    Args:
        engine: Predicts.
        dataset: What the requests look like.
        limits: What one request may hold.
        api_key: What a client must send as ``X-API-Key``, or as ``Authorization: Bearer``; empty for none. Health and
            documentation are open.
    """
    bounds = limits or Limits()
    large = asyncio.Semaphore(_LARGE_AT_ONCE)
    app = FastAPI(title=f"Predictions of '{dataset.target}'", version=__version__, description=dataset.description)
    app.router.route_class = _SafeRoute
    app.state.api_key = api_key
    _add_openapi(app, dataset, secured=bool(api_key))
    app.add_exception_handler(HTTPException, _refuse_route)

    @app.post("/predict", summary="Predict raw records", tags=["predict"], openapi_extra=_predict_extra(dataset))
    async def predict(request: Request) -> Response:
        body = await _body(request, bounds.body_bytes)
        if len(body) < LARGE_BODY:
            result = await engine.predict(records_of(body, bounds.records))
        else:
            async with large:
                records = await asyncio.to_thread(records_of, body, bounds.records)
                result = await engine.predict(records)
        request_id = _request_id(request)
        answer = {
            "predictions": result.predictions,
            "model": result.model.reference,
            "pipeline_version": result.model.pipeline_version,
            "request_id": request_id,
        }
        return _json(answer, headers={REQUEST_ID: request_id})

    @app.get("/model", summary="The model that is served", tags=["model"])
    async def model() -> Response:
        return _json(engine.holder.status())

    @app.get("/health/live", summary="The process is up", tags=["health"])
    async def live() -> Response:
        return _json({"status": "live"})

    @app.get("/health/ready", summary="A model is loaded", tags=["health"], responses={503: {"description": "No model yet"}})
    async def ready() -> Response:
        predictor = engine.holder.require()
        return _json({"status": "ready", "model": predictor.info.reference})

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return _json(
            {"service": "predictions", "version": __version__, "docs": "/docs", "model": "/model", "predict": "/predict"}
        )

    return app


def records_of(body: bytes, most: int) -> list[Record]:
    """The records of a request body: ``{"records": [...]}``, a list of records, or one record.

    Raises:
        InvalidRequestError: The body is no JSON, or none of the three.
        TooLargeError: There are more than ``most`` records.
    """
    try:
        content = decoded(body)
    except RecursionError:
        raise InvalidRequestError("The body is nested too deeply.") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidRequestError(f"The body is not JSON in UTF-8: {error}.") from None
    if isinstance(content, dict):
        content = content["records"] if list(content) == ["records"] else [content]
    if not isinstance(content, list):
        raise InvalidRequestError('The body must be {"records": [...]}, a list of records, or one record.')
    if not content:
        raise InvalidRequestError("There is no record in the request.")
    if len(content) > most:
        raise TooLargeError(f"{len(content)} records are more than the {most} that one request may hold; split them.")
    return content


class _SafeRoute(APIRoute):
    """Turns every error of an endpoint into an answer, in one place."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        secured = not self.path.startswith("/health/")

        async def safe(request: Request) -> Response:
            try:
                if secured:
                    _authorize(request)
                return await handle(request)
            except ComplexSystemError as error:
                return _error(error, _request_id(request))
            except HTTPException:
                raise
            except Exception:
                request_id = _request_id(request)
                log.exception("%s %s failed (request %s)", request.method, request.url.path, request_id)
                return _error(InternalError("The request failed inside the service; its log says more."), request_id)

        return safe


def _authorize(request: Request) -> None:
    """Lets a request pass that carries the API key, or all of them where none is set.

    Raises:
        UnauthorizedError: The key is missing or another one.
    """
    wanted: str = request.app.state.api_key
    if not wanted:
        return
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = request.headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
    if not secrets.compare_digest(given.encode(), wanted.encode()):
        raise UnauthorizedError("The API key is missing or wrong; send it as the header X-API-Key.")


async def _body(request: Request, most: int) -> bytes:
    """The request's body.

    Raises:
        TooLargeError: It has more than ``most`` bytes. The rest is read and thrown away (up to as much again), because a
            client that is still sending would see a broken connection instead of the answer.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise InvalidRequestError(f"Bodies are taken uncompressed, not with Content-Encoding '{encoding[:40]}'.")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= most:
            chunks.append(chunk)
        else:
            chunks.clear()
            if size > 2 * most:
                break
    if size > most:
        raise TooLargeError(
            f"The body is larger than the {most} bytes that one request may have; send fewer records in each."
        )
    return b"".join(chunks)


def _request_id(request: Request) -> str:
    own = request.headers.get(REQUEST_ID, "")
    return own if _REQUEST_ID.fullmatch(own) else str(uuid7())


_REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def _error(error: ComplexSystemError, request_id: str) -> Response:
    faults = error.faults if isinstance(error, InvalidRecordError) else []
    content = {"error": {"code": error.code, "message": error.message, "faults": faults}}
    status = HTTP_STATUS.get(error.code, 500)
    challenge = {"www-authenticate": "Bearer"} if status == 401 else {}
    return _json(content, status, {REQUEST_ID: request_id, **challenge})


async def _refuse_route(request: Request, error: Exception) -> Response:
    """The answer for a path or a method that does not exist, shaped as all others."""
    assert isinstance(error, HTTPException)
    content = {"error": {"code": f"http_{error.status_code}", "message": str(error.detail), "faults": []}}
    headers = {**(error.headers or {}), REQUEST_ID: _request_id(request)}
    return _json(content, error.status_code, headers)


def _predict_extra(dataset: Dataset) -> dict[str, Any]:
    def answer(description: str, name: str) -> dict[str, Any]:
        schema = {"$ref": f"#/components/schemas/{name}"}
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    return {
        "requestBody": request_body(dataset),
        "responses": {
            "200": answer("One prediction a record", "Predictions"),
            "400": answer("The body is not what is taken", "Error"),
            "401": answer("The API key is missing or wrong, where one is set", "Error"),
            "413": answer("Too many bytes or records", "Error"),
            "422": answer("A record is not as the data set declares it", "Error"),
            "503": answer("No model yet", "Error"),
        },
    }


def _add_openapi(app: FastAPI, dataset: Dataset, secured: bool) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schema.setdefault("components", {}).setdefault("schemas", {}).update(components(dataset))
            if secured:
                key = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
                schema["components"]["securitySchemes"] = {"key": key}
                schema["security"] = [{"key": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
