"""What every protocol shares: one place that all requests pass, their bodies within limits, their errors in words."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from complex_system.domain.keys import new_key
from complex_system.errors import (
    ComplexSystemError,
    InternalError,
    InvalidRecordError,
    InvalidRequestError,
    NobodyListensError,
    NoModelError,
    TooLargeError,
)
from complex_system.http.auth import ApiKey
from complex_system.serving.engine import PredictionEngine, PredictionResult
from complex_system.serving.metrics import ServingMetrics
from complex_system.serving.models.predictor import ModelInfo, Predictor
from complex_system.serving.requests.batch import Batch
from complex_system.serving.requests.bodies import LARGE_BODY
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.rest.answers import JsonResponse

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
LONG_BODY = 250_000
"""Bytes from which a body is decoded in a thread."""
LARGE_AT_ONCE = 4
"""Large bodies that are held at the same time: decoded, a body takes several times its bytes."""
LARGE_SECONDS = 60.0
"""How long a large body may take to arrive once it has its place, so that no slow sender keeps the place from others."""

HTTP_STATUS = {
    "invalid_request": 400,
    "unauthorized": 401,
    "unknown_model": 404,
    "invalid_record": 422,
    "too_large": 413,
    "no_model": 503,
    "model_refused": 503,
    "nobody_listens": 503,
    "busy": 503,
    "tracking_unavailable": 503,
    "tracking_refused": 503,
    "reply_timeout": 504,
}
"""The HTTP status of every error code; 500 for what is not here."""


class Gate:
    """What requests are held against, and what they are answered with.

    Attributes:
        engine: Predicts.
        metrics: Counts.
        large: Places for requests with large bodies.
    """

    def __init__(
        self,
        engine: PredictionEngine,
        api_key: str = "",
        broker_connected: Callable[[], bool] | None = None,
        broker_needed: bool = False,
    ) -> None:
        """Makes a gate.

        Args:
            engine: Predicts.
            api_key: What a client must send as ``X-API-Key``, or as ``Authorization: Bearer``; empty for none.
            broker_connected: Whether the broker is there.
            broker_needed: Whether no prediction can be made without it.
        """
        self.engine = engine
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)
        self.metrics = ServingMetrics(engine.models, broker_connected)
        self.api_key = ApiKey(api_key)
        self._broker_connected = broker_connected
        self._broker_needed = broker_needed

    def require_ready(self) -> None:
        """Returns when predictions can be made: a model is loaded and warm, and the broker is there if it is needed.

        Raises:
            NoModelError: There is no model yet.
            NobodyListensError: The broker is needed and away.
        """
        self.engine.holder.require()
        self.require_broker()

    def require_broker(self) -> None:
        """Returns when the broker is there or not needed.

        Raises:
            NobodyListensError: The broker is needed and away.
        """
        if self._broker_needed and self._broker_connected is not None and not self._broker_connected():
            raise NobodyListensError("The broker, which processes the records, is away.")

    @property
    def ready(self) -> bool:
        """Whether predictions can be made."""
        try:
            self.require_ready()
        except (NoModelError, NobodyListensError):
            return False
        return True


class Call(Request):
    """A request on its way.

    Attributes:
        gate: What it passed.
        model: What is known of the model that predicts, once that is known.
        predictor: What predicts, once that is known.
        records: How many records it holds, once they are read.
        fields: The headers by their names in lower case. Quicker than ``headers``, which decodes all of them.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, gate: Gate) -> None:
        super().__init__(scope, receive, send)
        self.gate = gate
        self.model: ModelInfo | None = None
        self.predictor: Predictor | None = None
        self.records = 0
        self._id = ""
        self._placed = self._live = False
        # Where a name stands more than once, the first one counts.
        self.fields: dict[bytes, bytes] = dict(reversed(scope["headers"]))

    def header(self, name: bytes) -> str:
        """A header by its name in lower case; empty where it is missing."""
        return self.fields.get(name, b"").decode("latin-1")

    def leave(self) -> None:
        """Gives back the place that a large body took."""
        if self._placed:
            self._placed = False
            self.gate.large.release()

    async def _take_place(self, limit: asyncio.Timeout) -> None:
        """Waits for a place among the large bodies; what is not read meanwhile stays with the sender."""
        await self.gate.large.acquire()
        self._placed = True
        limit.reschedule(asyncio.get_running_loop().time() + LARGE_SECONDS)

    @property
    def id(self) -> str:
        """The client's request id if it can stand in a header, else one of ours."""
        if not self._id:
            own = self.header(_REQUEST_ID_FIELD)
            self._id = own if own and _REQUEST_ID.fullmatch(own) else new_key()
        return self._id

    async def within_limits(self) -> bytes:
        """The body.

        Raises:
            InvalidRequestError: It is compressed.
            TooLargeError: It has too many bytes. The rest is read and thrown away (up to as much again), because a client
                that is still sending would see a broken connection instead of the answer.
        """
        most = self.gate.engine.limits.body_bytes
        encoding = self.header(b"content-encoding")
        if encoding not in ("", "identity"):
            raise InvalidRequestError(f"Bodies are taken uncompressed, not with Content-Encoding '{encoding[:40]}'.")
        header = self.header(b"content-length")
        declared = int(header) if len(header) < 19 and header.isdecimal() else 0
        if 0 < declared < min(LARGE_BODY, most):
            return await self._small_body()
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(None) as limit:
                if LARGE_BODY <= declared <= most:
                    await self._take_place(limit)
                async for chunk in self.stream():
                    size += len(chunk)
                    if size > most or declared > most:
                        chunks.clear()
                        self.leave()
                        if size > 2 * most:
                            break
                        continue
                    chunks.append(chunk)
                    if size >= LARGE_BODY and not self._placed:
                        await self._take_place(limit)
        except TimeoutError:
            raise InvalidRequestError(
                f"The body of more than {LARGE_BODY} bytes did not arrive within {LARGE_SECONDS:g} s; send fewer records a request."
            ) from None
        if size > most:
            raise TooLargeError(self._how_to_split(size))
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _small_body(self) -> bytes:
        """A body that has declared its length, where the HTTP server ends it."""
        body = b""
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return body

    def _how_to_split(self, seen: int) -> str:
        limits = self.gate.engine.limits
        declared = self.header(b"content-length")
        size = int(declared) if declared.isdecimal() and len(declared) < 20 else seen
        how_large = f"has {size} bytes" if size > seen or declared else f"has {size} bytes or more"
        # A few bytes go into what is around the records of each request.
        requests = -(-size // max(1, limits.body_bytes - 1000))
        return (
            f"The body {how_large}, more than the {limits.body_bytes} bytes that one request may have; send its records in "
            f"{max(2, requests)} requests or more, each of at most {limits.body_bytes} bytes and {limits.records} records."
        )

    async def read(self, read: Callable[[bytes, BatchReader], Batch]) -> Batch:
        """The batch that a body holds, decoded in a thread if it is long, as the model that will predict takes it."""
        engine = self.gate.engine
        if self.predictor is None and engine.holder.current is not None:
            # So that a request that is refused counts as the champion's.
            self.predictor, self.model, self._live = engine.holder.current, engine.holder.current.info, True
        reader = engine.reader_for(self.predictor)
        body = await self.within_limits()
        batch = read(body, reader) if len(body) <= LONG_BODY else await asyncio.to_thread(read, body, reader)
        self.records = batch.size
        return batch

    async def find(self, name: str, version: str | None) -> Predictor:
        """The model that the request names; what happens from now on is counted as its.

        Raises:
            NoModelError: No model is loaded yet.
            UnknownModelError: There is no such model.
            ModelRefusedError: The model exists and must not be served.
        """
        self.predictor = await self.gate.engine.models.predictor(name, version)
        self.model = self.predictor.info
        self._live = self.predictor is self.gate.engine.holder.current
        return self.predictor

    async def versions(self, name: str) -> list[str]:
        """The versions of a model that may be asked for, oldest first."""
        return await self.gate.engine.models.versions(name)

    async def predict(self, batch: Batch) -> PredictionResult:
        """Predictions of the model that the batch was read for.

        Raises:
            NoModelError: There was no model when it was read.
        """
        self.records = batch.size
        engine, predictor = self.gate.engine, self.predictor
        if predictor is None:
            predictor = engine.holder.require()
            if engine.reader_for(predictor) is not engine.reader:
                raise NoModelError("There was no model when the request came; there is one now: send it again.")
        result = await engine.predict_batch(batch, predictor=predictor, live=self._live or None)
        self.model = result.model
        return result


class ServingRoute(APIRoute):
    """The one place that all requests pass: key, errors, request id and metrics.

    FastAPI makes the documentation; its way of calling endpoints costs a request more than the prediction does, and is
    left out. An endpoint takes a :class:`Call` and the parameters of its path, as texts.
    """

    secured: ClassVar[bool] = True
    error_schema: ClassVar[str] = "Error"
    """Name of the schema of what :meth:`refusal` answers."""

    @override
    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = self._serve

    def refusal(self, error: ComplexSystemError, call: Call) -> Response:
        """The answer that says an error, as this protocol has it."""
        return error_response(error, call)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        gate: Gate = scope["app"].gate
        call = Call(scope, receive, send, gate)
        began = time.perf_counter()
        requests = gate.metrics.requests
        requests.in_progress += 1
        try:
            response = await self._answer(call)
        finally:
            requests.in_progress -= 1
            call.leave()
        gate.metrics.answered(self.path, call.model, response.status_code, time.perf_counter() - began, call.records)
        await response(scope, receive, send)

    async def _answer(self, call: Call) -> Response:
        try:
            if self.secured:
                call.gate.api_key.require(call.headers)
            response: Response = await self.endpoint(call, **call.scope["path_params"])
            return response
        except ComplexSystemError as error:
            self._count(call, error.code)
            return self.refusal(error, call)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception:
            log.exception("%s %s failed (request %s)", call.method, self.path, call.id)
            self._count(call, InternalError.code)
            return self.refusal(InternalError("The request failed inside the service; its log says more."), call)

    @staticmethod
    def _count(call: Call, code: str) -> None:
        if call.method == "POST":  # asked for predictions
            call.gate.metrics.failures.count(code)


class OpenRoute(ServingRoute):
    """A route that needs no key: probes and metrics."""

    secured = False


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return JsonResponse(content, status, headers)


def status_of(error: ComplexSystemError) -> int:
    """The HTTP status of an error."""
    return HTTP_STATUS.get(error.code, 500)


def challenge(status: int) -> dict[str, str]:
    """The header that a 401 must have."""
    return {"www-authenticate": "Bearer"} if status == 401 else {}


def sentences(error: ComplexSystemError) -> str:
    """All that is wrong, in one text, for protocols that know no list of faults."""
    if not isinstance(error, InvalidRecordError) or len(error.faults) < 2:
        return error.message
    return in_one_text(fault_lines(error.faults))


def fault_lines(faults: list[dict[str, Any]]) -> list[str]:
    """One line a fault, with record, field and problem."""
    return [
        f"record {f['record']}{', ' + repr(f['field']) if f['field'] is not None else ''}: {f['problem']}" for f in faults
    ]


def in_one_text(lines: list[str]) -> str:
    """Lines as one text that begins with their number."""
    return f"{len(lines)} faults: " + "; ".join(lines) + "."


def error_response(error: ComplexSystemError, call: Call) -> Response:
    """Our own shape of errors."""
    faults = error.faults if isinstance(error, InvalidRecordError) else []
    content = {"error": {"code": error.code, "message": error.message, "faults": faults}}
    status = status_of(error)
    return json_response(content, status, {REQUEST_ID: call.id, **challenge(status)})


async def refuse_route(request: Request, error: Exception) -> Response:
    """The answer for a path or a method that does not exist, shaped as all others."""
    assert isinstance(error, HTTPException)
    call = Call(request.scope, request.receive, request._send, request.app.state.gate)
    call.gate.metrics.answered("other", None, error.status_code, 0.0, 0)
    if request.url.path.startswith("/v2"):
        content: dict[str, Any] = {"error": str(error.detail)}
    else:
        content = {"error": {"code": f"http_{error.status_code}", "message": str(error.detail), "faults": []}}
    return json_response(content, error.status_code, {**(error.headers or {}), REQUEST_ID: call.id})


_REQUEST_ID_FIELD = REQUEST_ID.encode()
_REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
