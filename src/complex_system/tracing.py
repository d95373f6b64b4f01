"""Traces with OpenTelemetry: of a request through features and model, and of a record from its arrival to its processing.

Off unless an OTLP endpoint is set; until then nothing of OpenTelemetry is imported, and each call returns :data:`NOTHING`. This is
the only module that imports it. Contexts travel as W3C's ``traceparent`` and ``tracestate``, in headers of HTTP, NATS and gRPC alike.
Spans carry numbers and names of models, subjects and routes; no values of records, and of an error its code only, because its text
quotes values.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from complex_system.errors import ComplexSystemError, how_to_install
from complex_system.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

log = logging.getLogger(__name__)

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Value = str | int | float | bool

PARENT, STATE = "traceparent", "tracestate"
_CARRIED = (PARENT.encode(), STATE.encode())
NATS: Mapping[str, Value] = {"messaging.system": "nats"}
"""Attributes of spans of messages; they are named by their subject."""
STOP_SECONDS = 2.0
"""How long the end of a service waits for the last spans to be sent."""
MAX_KEYS = 100_000
"""Records whose traces are remembered until they are processed."""


class Span:
    """A part of a trace, as context manager; this one, for everything outside of a trace, does nothing."""

    def __enter__(self) -> Span:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        return None

    def set(self, name: str, value: Value) -> None:
        """Set an attribute."""


NOTHING = Span()


class _RecordedSpan(Span):
    """A part of a trace that is exported."""

    def __init__(self, tracing: _Tracing, span: OtelSpan) -> None:
        self._tracing = tracing
        self._span = span

    @override
    def __enter__(self) -> Span:
        self._token = self._tracing.context.attach(self._tracing.trace.set_span_in_context(self._span))
        return self

    @override
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._tracing.context.detach(self._token)
        if isinstance(error, Exception):
            self._tracing.fail(self._span, error)
        self._span.end()

    @override
    def set(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)


class _Tracing:
    """OpenTelemetry, imported, with a provider of its own: MLflow has another one in the same process."""

    def __init__(self, endpoint: str, service: str, version: str, replica: str) -> None:
        from opentelemetry import context, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.context, self.trace = context, trace
        self._propagator = TraceContextTextMapPropagator()

        class Exporter(SpanExporter):
            """Reports once that traces cannot be sent, and once that they can be again."""

            inside = OTLPSpanExporter()
            works = True

            @override
            def export(self, spans: Any) -> SpanExportResult:
                sent = self.inside.export(spans)
                if (sent is SpanExportResult.SUCCESS) != self.works:
                    self.works = not self.works
                    if self.works:
                        log.info("Traces are sent to %s again", endpoint)
                    else:
                        log.warning("Traces cannot be sent to %s; they are dropped until that works", endpoint)
                return sent

            @override
            def shutdown(self) -> None:
                self.inside.shutdown()  # type: ignore[no-untyped-call]

        # Its own lines would be one for every attempt and for every span that is dropped.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        about = {"service.name": service, "service.version": version, "service.instance.id": replica}
        self.provider: TracerProvider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(Exporter()))
        self.tracer = self.provider.get_tracer("complex_system", version)

    def start(
        self, name: str, kind: Kind, parent: Context | None, attributes: Mapping[str, Value] | None, began: int | None = None
    ) -> OtelSpan:
        number = self.trace.SpanKind[kind.upper()]
        return self.tracer.start_span(name, parent, number, attributes, start_time=began)

    def extract(self, headers: Mapping[str, str] | None) -> Context:
        """Return the context that headers carry; Go's clients write ``Traceparent``."""
        found = {name.lower(): value for name, value in (headers or {}).items()}
        return self._propagator.extract(found, self.context.Context())

    def headers_of(self, span: OtelSpan) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self.trace.set_span_in_context(span))
        return carrier

    def current(self) -> OtelSpan | None:
        """Return the current span if it is recorded."""
        span = self.trace.get_current_span()
        return span if span.is_recording() else None

    def fail(self, span: OtelSpan, error: Exception) -> None:
        code = error.code if isinstance(error, ComplexSystemError) else type(error).__name__
        span.set_attribute("error.type", code)
        span.set_status(self.trace.StatusCode.ERROR)


_tracing: _Tracing | None = None


def start(settings: Settings, service: str, version: str, replica: str) -> None:
    """Begin to record and export, if an endpoint is set. Without the packages that it needs, say so and go on."""
    global _tracing
    if not settings.otlp_endpoint:
        return
    try:
        _tracing = _Tracing(settings.otlp_endpoint, service, version, replica)
    except ImportError as error:
        log.warning("Traces are not recorded: %s. To install what they need: %s", error, how_to_install("tracing"))
    except Exception:
        log.exception("Traces are not recorded")


async def stop() -> None:
    """Send what is left, for a moment, and end."""
    global _tracing
    if _tracing is None:
        return
    provider, _tracing = _tracing.provider, None
    # An endpoint that hangs must not hold up the end of the service.
    sending = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
    sending.start()
    await asyncio.to_thread(sending.join, STOP_SECONDS)


def span(name: str, kind: Kind = "internal", attributes: Mapping[str, Value] | None = None) -> Span:
    """Return a part of the present trace; nothing outside of one."""
    tracing = _tracing
    if tracing is None or tracing.current() is None:
        return NOTHING
    return _RecordedSpan(tracing, tracing.start(name, kind, None, attributes))


def received(
    name: str, headers: Mapping[str, str] | None, attributes: Mapping[str, Value] | None = None,
    *, begins: bool = True, kind: Kind = "server",
) -> Span:  # fmt: skip
    """Return the span of a request that came: of the sender's trace if its headers carry one, else of a new one.

    Args:
        name: Of the span.
        headers: Of HTTP or NATS, or gRPC's metadata as a mapping.
        attributes: Of the span.
        begins: Whether a request without a trace begins one.
        kind: ``consumer`` for a message that nobody waits for.
    """
    tracing = _tracing
    if tracing is None:
        return NOTHING
    parent = tracing.extract(headers)
    return _RecordedSpan(tracing, tracing.start(name, kind, parent, attributes)) if begins or parent else NOTHING


def http_request(method: str, route: str, fields: Iterable[tuple[bytes, bytes]]) -> Span:
    """Return the span of a request over HTTP; a POST begins a trace, what asks for states and figures does not.

    Args:
        method: Of HTTP.
        route: Template of the path.
        fields: The headers, with names in lower case.
    """
    carried = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields if name in _CARRIED}
    return received(
        f"{method} {route}", carried, {"http.request.method": method, "http.route": route}, begins=method == "POST"
    )


def record(
    name: str, kind: Kind, headers: Mapping[str, str] | None, times: tuple[int, int],
    attributes: Mapping[str, Value],
) -> dict[str, str]:  # fmt: skip
    """Record a part that is over, of work on a batch in which every message has a trace of its own.

    Args:
        name: Of the span.
        kind: Of the span.
        headers: Carry the parent; without one a trace begins.
        times: Begin and end, nanoseconds since 1970.
        attributes: Of the span.

    Returns:
        Headers with which its own parts are recorded; empty while tracing is off.
    """
    tracing = _tracing
    if tracing is None:
        return {}
    made = tracing.start(name, kind, tracing.extract(headers), attributes, times[0])
    made.end(times[1])
    return tracing.headers_of(made)


def failed(error: Exception) -> None:
    """Mark the present span as failed, where the error itself goes no further."""
    if _tracing is not None and (current := _tracing.current()) is not None:
        _tracing.fail(current, error)


def is_on() -> bool:
    """Whether traces are recorded."""
    return _tracing is not None


def headers() -> dict[str, str] | None:
    """Return what a message carries, so that its receiver continues the present trace; None outside of one."""
    tracing = _tracing
    current = tracing.current() if tracing is not None else None
    return tracing.headers_of(current) if tracing is not None and current is not None else None


def trace_id() -> str:
    """Return the id of the present trace, in hexadecimal; empty outside of one."""
    current = _tracing.current() if _tracing is not None else None
    return f"{current.get_span_context().trace_id:032x}" if current is not None else ""


class TracedKeys:
    """Traces of saved records by key, until the records are processed: they are found by query, long after their messages are gone."""

    def __init__(self) -> None:
        self._headers: OrderedDict[str, dict[str, str]] = OrderedDict()

    def add(self, headers: dict[str, str], keys: Iterable[str]) -> None:
        """Remember that records were saved within a trace."""
        for key in keys:
            self._headers[key] = headers
        while len(self._headers) > MAX_KEYS:
            self._headers.popitem(last=False)

    def processed(self, name: str, keys: Iterable[str], began: int) -> None:
        """Record for every trace that some of these records belong to that they were processed, from ``began`` until now."""
        if not self._headers:
            return
        counts: defaultdict[str, int] = defaultdict(int)
        found: dict[str, dict[str, str]] = {}
        for key in keys:
            if (carried := self._headers.pop(key, None)) is not None:
                counts[carried[PARENT]] += 1
                found[carried[PARENT]] = carried
        ended = time.time_ns()
        for parent, carried in found.items():
            record(name, "internal", carried, (began, ended), {"records": counts[parent]})
