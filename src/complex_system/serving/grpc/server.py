"""The Open Inference Protocol and the standard health service over gRPC, inside the event loop of a service.

Beyond the connections, everything is REST's: the key, the limits, the engine, the errors, the counters. gRPC has no limit of the bytes
of all messages, so handlers are asked before their message is received: they check the key, and wait for room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from grpc_health.v1 import health_pb2

from complex_system import __version__, tracing
from complex_system.errors import (
    BusyError,
    ComplexSystemError,
    InternalError,
    InvalidRecordError,
    InvalidRequestError,
    ModelRefusedError,
    NobodyListensError,
    NoModelError,
    StartError,
    error_text,
)
from complex_system.http.connections import BODY_SECONDS, MAX_CONNECTIONS
from complex_system.http.limits import ByteBudget
from complex_system.http.responses import status_of
from complex_system.logs import REQUEST, Identified
from complex_system.protocol.serving import ORIGIN_HEADER, ORIGINS
from complex_system.serving.engine import off_loop
from complex_system.serving.grpc import open_inference_pb2 as pb
from complex_system.serving.grpc.messages import decoded, inference_request, inference_response
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.open_inference import EXTENSIONS, SERVER, requested_batch, tensors_of
from complex_system.serving.requests.batch import Batch
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.requests.tensors import InferenceRequest
from complex_system.serving.rest.endpoint import LONG_BODY, OUTSIDE, Backend, outside_header

log = logging.getLogger(__name__)

_ABOUT: Mapping[str, tracing.Value] = {"rpc.system": "grpc"}
INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The status of a call, by the status of the error over REST; INTERNAL for others."""
RECEIVED = 536_870_912
"""Bytes of all messages that are received at the same time. The size of a message is known when it is there; until then it counts as
the largest one."""
_OPEN_SHARE = 4
"""Calls that need no key receive within a budget of their own, so many times smaller: who has no key cannot hold up who has one, and
slow messages of others do not keep a probe waiting."""
_GRACE = 3.0
"""Seconds that open calls get when the server stops."""
_WATCH_SECONDS = 1.0
"""Seconds between two looks of a watched health."""
_MAX_WATCHES = 100
"""Clients that watch at the same time. They need no key and stay for long, and all calls together are limited, too."""
_ORIGIN = ORIGIN_HEADER.decode()
_MAX_DETAILS = 4000
"""Bytes of an error's text: clients take 8 KiB of trailers, where a byte beyond ASCII needs three."""


class Call(Identified):
    """A call that is being answered.

    Attributes:
        metadata: By name.
        predictor: The model that it names, once it is found.
        size: Number of records, once they are read.
        trailers: Sent behind the answer.
        received: Bytes that it has of ``room``.
        room: Those of all messages that are received with its own.
        refusal: Ends the call because its message took too long; the context takes no other end then.
    """

    def __init__(self, context: Any) -> None:
        self.context = context
        self.metadata: dict[str, str] = {
            name: value for name, value in context.invocation_metadata() or () if type(value) is str
        }
        super().__init__(self.metadata)
        self.predictor: Predictor | None = None
        self.size = 0
        self.trailers: list[tuple[str, str]] = []
        self.received = 0
        self.room: ByteBudget | None = None
        self.refusal: asyncio.Future[None] | None = None

    def refuse_late(self) -> None:
        """End it while its message is being received, which must not be cancelled: gRPC's core writes into it."""
        text = f"The message did not arrive within {BODY_SECONDS:g} s; send fewer records a call."
        self.refusal = asyncio.ensure_future(self.context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text))


@dataclass(frozen=True)
class _Method:
    """A method of the protocol.

    Attributes:
        answer: Answers a message of the type ``request``.
        is_open: Whether it needs no key.
        predicts: Whether a call that fails counts as a prediction that failed.
    """

    request: Any
    answer: Callable[[Any, Call], Awaitable[Any]]
    is_open: bool = False
    predicts: bool = False


class GrpcServer:
    """Runs the protocol on a port.

    Attributes:
        address: Host and port; empty before the start.
    """

    def __init__(
        self, backend: Backend, host: str, port: int, certificate: str = "", key: str = "", received: int = RECEIVED
    ) -> None:
        """Prepare a server.

        Args:
            backend: What all calls share.
            host: Address to bind.
            port: Port, or 0 for a free one.
            certificate: File of its certificate chain (PEM), for TLS; empty for none.
            key: File of the private key (PEM).
            received: Bytes of all messages that are received at the same time, without those of calls that need no key.
        """
        self._backend = backend
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._files = (certificate, key)
        largest = backend.limits.max_bytes
        self._receiving = ByteBudget(max(received, largest))
        self._receiving_open = ByteBudget(max(received // _OPEN_SHARE, largest))
        self._server: Any = None
        self._stopping = asyncio.Event()
        self._watches = 0
        self.address = ""

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            StartError: The port is in use, or the address is not of this host, or certificate and key cannot be used.
        """
        options = [
            # A longer message is refused by its length, before it is read.
            ("grpc.max_receive_message_length", self._backend.limits.max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a small message could become a large one
            ("grpc.so_reuseport", 0),  # a port in use is an error
            ("grpc.http2.bdp_probe", 0),  # what nobody receives stays with its sender, but for 64 KiB a call
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MAX_CONNECTIONS)
        self._server.add_generic_rpc_handlers((self._inference(), self._health()))
        credentials = self._credentials()
        place = f"{self._host}:{self._port}"
        try:
            bound = (
                self._server.add_secure_port(place, credentials) if credentials else self._server.add_insecure_port(place)
            )
        except RuntimeError as error:
            raise StartError(
                f"The gRPC server cannot listen on {place}: free the port, or set another one; with TLS, look at certificate and key."
            ) from error
        await self._server.start()
        self.address = f"{self._host}:{bound}"

    async def stop(self) -> None:
        """Tell that no more is served, refuse new calls, finish open ones, and stop."""
        self._stopping.set()
        if self._server is not None:
            await self._server.stop(_GRACE)
            self._server = None

    def _credentials(self) -> Any:
        if not any(self._files):
            return None
        if not all(self._files):
            raise StartError("TLS for gRPC needs both, a certificate and its key.")
        try:
            certificate, key = (Path(file).read_bytes() for file in self._files)
        except OSError as error:
            raise StartError(f"A file for the TLS of gRPC cannot be read: {error}.") from error
        return grpc.ssl_server_credentials([(key, certificate)])

    def _inference(self) -> Any:
        methods = {
            "ServerLive": _Method(pb.ServerLiveRequest, self._server_live, is_open=True),
            "ServerReady": _Method(pb.ServerReadyRequest, self._server_ready, is_open=True),
            "ModelReady": _Method(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": _Method(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": _Method(pb.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": _Method(pb.ModelInferRequest, self._infer, predicts=True),
        }
        # As streams of one message, which is received when the handler asks for it. It stays bytes until there is room for what a
        # long one becomes.
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(
                self._answering(name, method), response_serializer=lambda answer: answer.SerializeToString()
            )
            for name, method in methods.items()
        }
        return grpc.method_handlers_generic_handler(INFERENCE, handlers)

    def _answering(self, name: str, method: _Method) -> Callable[[Any, Any], Awaitable[Any]]:
        route = f"/{INFERENCE}/{name}"

        async def answer(_: Any, context: Any) -> Any:
            call = Call(context)
            REQUEST.set(call)
            with tracing.received(route, call.metadata, _ABOUT, begins=method.predicts):
                answered, status = await self._answered(route, method, call)
            if call.trailers:
                context.set_trailing_metadata(tuple(call.trailers))
            if isinstance(answered, ComplexSystemError):
                await _refuse(call, answered, status)
            return answered

        return answer

    async def _message(self, call: Call, room: ByteBudget) -> bytes:
        """Receive the message of a call within a budget; :meth:`_release` must be called when it is answered.

        Raises:
            BusyError: Too many others are being received.
            InvalidRequestError: There is none, or it took too long.
        """
        largest = self._backend.limits.max_bytes
        await room.take(largest)
        call.received, call.room = largest, room
        timer = asyncio.get_running_loop().call_later(BODY_SECONDS, call.refuse_late)
        try:
            content = await call.context.read()
        except grpc.aio.AbortError:
            content = None
        finally:
            timer.cancel()
        if type(content) is not bytes:
            raise InvalidRequestError("The call has no message, or one that is too long, or that came too late.")
        call.received = len(content)
        room.give_back(largest - len(content))
        return content

    def _release(self, call: Call) -> None:
        if call.room is not None:
            call.room.give_back(call.received)

    async def _answered(self, route: str, method: _Method, call: Call) -> tuple[Any, int]:
        """Return the answer, or the error in its place, and the status that REST has for it."""
        backend, began = self._backend, time.perf_counter()
        counters, limits = backend.metrics.requests, backend.limits
        taken, status = 0, 200
        counters.in_progress += 1
        try:
            if not method.is_open:
                backend.api_key.require(call.metadata)
            content = await self._message(call, self._receiving_open if method.is_open else self._receiving)
            if len(content) > limits.unbudgeted:
                await limits.budget.take(len(content))
                taken = len(content)
            answered = await method.answer(decoded(method.request, content), call)
        except ComplexSystemError as error:
            tracing.failed(error)
            answered = error
        except Exception as error:
            log.exception("%s failed", route)
            tracing.failed(error)
            answered = InternalError("The request failed inside the service; its log says more.")
        finally:
            counters.in_progress -= 1
            if taken:
                limits.budget.give_back(taken)
            self._release(call)
        if isinstance(answered, ComplexSystemError):
            status = 400 if answered.code == InvalidRecordError.code else status_of(answered)
            if method.predicts:
                backend.metrics.failures.count(answered.code)
        model = call.predictor.info if call.predictor else None
        counters.add(route, model, status, time.perf_counter() - began, call.size)
        return answered, status

    async def _server_live(self, _: Any, __: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _: Any, __: Call) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._is_ready)

    async def _server_metadata(self, _: Any, __: Call) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=SERVER, version=__version__, extensions=EXTENSIONS)

    async def _model_ready(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        try:
            await self._find(request.name, request.version, call)
            self._backend.require_processing()
        except (NoModelError, ModelRefusedError, NobodyListensError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _model_metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        predictor = await self._find(request.name, request.version, call)
        models = self._backend.engine.models
        versions = [predictor.info.version] if request.version else await models.versions(request.name)
        answer = pb.ModelMetadataResponse(name=request.name, versions=versions, platform=predictor.info.platform)
        for made, tensors in zip((answer.inputs, answer.outputs), tensors_of(predictor), strict=True):
            for each in tensors:
                made.add(name=each.name, datatype=each.datatype, shape=each.shape)
        return answer

    async def _infer(self, message: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        engine = self._backend.engine
        # An unknown model is reported before the input is checked.
        predictor = await self._find(message.model_name, message.model_version, call)
        is_live = predictor is engine.champion.current
        reader = engine.reader_for(predictor)
        is_long = call.received > LONG_BODY
        request, batch = await asyncio.to_thread(_read, message, reader) if is_long else _read(message, reader)
        call.size = batch.size
        origin = ORIGINS.get(call.metadata.get(_ORIGIN, ""), "live")
        result = await engine.predict_batch(batch, predictor, live=is_live, origin=origin)
        if result.outside:
            call.trailers.append((OUTSIDE, outside_header(result.outside)))
        answer: pb.ModelInferResponse = await off_loop(batch.size, inference_response, message, request, result)
        return answer

    async def _find(self, name: str, version: str, call: Call) -> Predictor:
        call.predictor = await self._backend.engine.models.predictor(name, version or None)
        return call.predictor

    @property
    def _is_ready(self) -> bool:
        return self._backend.is_ready and not self._stopping.is_set()

    def _health(self) -> Any:
        """Return grpc.health.v1, which needs no key: its states are those of ``/readyz``."""
        serialize = health_pb2.HealthCheckResponse.SerializeToString
        return grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.stream_unary_rpc_method_handler(self._check, response_serializer=serialize),
                "Watch": grpc.stream_stream_rpc_method_handler(self._watch, response_serializer=serialize),
            },
        )

    async def _service(self, context: Any) -> str:
        """Receive the name of the service whose health is asked for."""
        call = Call(context)
        try:
            name: str = decoded(health_pb2.HealthCheckRequest, await self._message(call, self._receiving_open)).service
        except ComplexSystemError as error:
            await _refuse(call, error, status_of(error))
        finally:
            self._release(call)
        return name

    async def _check(self, _: Any, context: Any) -> Any:
        service = await self._service(context)
        if service not in ("", INFERENCE):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service '{service[:60]}'.")
        return self._state(service)

    async def _watch(self, _: Any, context: Any) -> AsyncIterator[Any]:
        service, last = await self._service(context), None
        if self._watches >= _MAX_WATCHES:
            text = f"{_MAX_WATCHES} clients watch already; use Check, or watch later."
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._watches += 1
        try:
            while True:
                is_last = self._stopping.is_set()  # read before the state, which then tells it
                state = self._state(service)
                if state != last:
                    yield state
                last = state
                if is_last:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_WATCH_SECONDS):
                        await self._stopping.wait()
        finally:
            self._watches -= 1

    def _state(self, service: str) -> Any:
        states = health_pb2.HealthCheckResponse
        if service not in ("", INFERENCE):
            return states(status=states.SERVICE_UNKNOWN)
        return states(status=states.SERVING if self._is_ready else states.NOT_SERVING)


async def _refuse(call: Call, error: ComplexSystemError, status: int) -> NoReturn:
    """End a call with an error.

    Raises:
        AbortError: Always; it tells gRPC.
    """
    if call.refusal:
        await call.refusal
    # UNAVAILABLE would say that the server is away.
    code = (
        grpc.StatusCode.RESOURCE_EXHAUSTED if isinstance(error, BusyError) else _CODES.get(status, grpc.StatusCode.INTERNAL)
    )
    await call.context.abort(code, _shortened(error_text(error)))
    raise error  # never


def _read(message: pb.ModelInferRequest, reader: BatchReader) -> tuple[InferenceRequest, Batch]:
    request = inference_request(message)
    return request, requested_batch(request, reader)


def _shortened(text: str) -> str:
    """Return a text that fits into a trailer, where it is percent-encoded."""
    if len(quote(text)) <= _MAX_DETAILS:
        return text
    while len(quote(text)) > _MAX_DETAILS:
        text = text[: len(text) * 9 // 10]
    return f"{text}..."
