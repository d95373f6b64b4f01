"""Traces: nothing while they are off, no harm while their endpoint is away, hangs or comes back."""

from __future__ import annotations

import asyncio
import logging
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from complex_system import tracing
from complex_system.errors import InvalidRecordError
from complex_system.local.servers import free_port
from complex_system.settings import Settings
from support import eventually

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "plant=press-4"}

Start = Callable[[int], None]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    def begin(port: int) -> None:
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        tracing.start(Settings(), "tester", "1.0", "here")
        assert tracing.is_on()

    level = logging.getLogger("opentelemetry").level
    yield begin
    await tracing.stop()
    logging.getLogger("opentelemetry").setLevel(level)


class Endpoint(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        self.spans: list[Any] = []
        super().__init__(("127.0.0.1", port), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def test_without_an_endpoint_nothing_is_imported_and_nothing_happens() -> None:
    program = """
import sys
from complex_system import tracing
from complex_system.settings import Settings
from complex_system.service_layer.serving.service import ServingService
tracing.start(Settings(), "tester", "1.0", "here")
with tracing.received("request", {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}) as span:
    with tracing.span("features") as inner:
        assert span is inner is tracing.NOTHING
        assert tracing.headers() is None and tracing.trace_id() == ""
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    environment = {"PYTHONPATH": ":".join(sys.path), "FASTIOT_CONFIG_DIR": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_an_endpoint_that_is_away_is_reported_once_and_costs_nobody_anything(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    took: list[float] = []
    caplog.set_level(logging.INFO, "complex_system.tracing")
    start(port)

    def work() -> None:
        began = time.perf_counter()
        with tracing.received("request", None), tracing.span("features"):
            pass
        took.append(time.perf_counter() - began)

    def told() -> list[str]:
        return [record.message for record in caplog.records if record.name == "complex_system.tracing"]

    def works_until(text: str) -> bool:
        work()
        return any(text in message for message in told())

    await eventually(lambda: works_until("cannot be sent"))
    for _ in range(5):
        work()
        await asyncio.sleep(0.05)
    endpoint = Endpoint(port)
    try:
        await eventually(lambda: works_until("again"))
    finally:
        endpoint.stop()
    assert [message.split(" to ")[0] for message in told()][:2] == ["Traces cannot be sent", "Traces are sent"]
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert statistics.median(took) < 0.1


async def test_an_endpoint_that_hangs_does_not_hold_up_the_end(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        start(hanging.getsockname()[1])
        with tracing.received("request", None):
            pass
        began = time.perf_counter()
        await tracing.stop()
        assert time.perf_counter() - began < tracing.STOP_SECONDS + 10  # an exporter that is waited for tries for a minute
    assert not tracing.is_on()


async def test_context_is_taken_and_passed_on_and_errors_have_no_text(start: Start) -> None:
    endpoint = Endpoint()
    try:
        start(endpoint.server_port)

        async def answer(carried: dict[str, str]) -> dict[str, str] | None:
            with tracing.received("request", carried):
                assert tracing.trace_id() == TRACE
                with pytest.raises(InvalidRecordError), tracing.span("features"):
                    raise InvalidRecordError("secret-value is not a number", [])
                return tracing.headers()

        passed_on = await answer({"Traceparent": HEADERS["traceparent"], "tracestate": "plant=press-4"})
        assert passed_on is not None
        assert passed_on["traceparent"].startswith(f"00-{TRACE}-")
        assert passed_on["tracestate"] == "plant=press-4"
        assert tracing.trace_id() == ""
        assert tracing.span("outside of a trace") is tracing.NOTHING
        assert tracing.received("poll", None, begins=False) is tracing.NOTHING
        # The client has decided that its trace is not recorded.
        with tracing.received("request", {"traceparent": f"00-{TRACE}-{PARENT}-00"}):
            assert tracing.span("features") is tracing.NOTHING
            assert tracing.headers() is None
        for bad in ("", "x" * 10_000, "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01"):
            with tracing.received("begins", {"traceparent": bad}):
                assert tracing.trace_id() not in ("", TRACE)
        spans = await eventually(lambda: len(endpoint.spans) >= 6 and endpoint.spans)
    finally:
        endpoint.stop()
    by_name = {span.name: span for span in spans}
    request, features = by_name["request"], by_name["features"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert features.parent_span_id == request.span_id
    assert {each.key: each.value.string_value for each in features.attributes} == {"error.type": "invalid_record"}
    assert not [span for span in spans if b"secret-value" in span.SerializeToString()]
    assert sum(span.name == "begins" and not span.parent_span_id for span in spans) == 4


async def test_records_of_several_traces_are_processed_together(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_KEYS", 3)
    endpoint = Endpoint()
    try:
        start(endpoint.server_port)
        keys = tracing.TracedKeys()
        other = {"traceparent": f"00-{TRACE[::-1]}-{PARENT}-01"}
        keys.add(HEADERS, ["forgotten", "a", "b"])
        keys.add(other, ["c"])
        keys.processed("process", ["b", "a", "c", "forgotten", "of no trace"], time.time_ns())
        keys.processed("process", ["a"], time.time_ns())
        spans = await eventually(lambda: len(endpoint.spans) >= 2 and endpoint.spans)
    finally:
        endpoint.stop()
    counts = {span.trace_id.hex(): span.attributes[0].value.int_value for span in spans}
    assert counts == {TRACE: 2, TRACE[::-1]: 1}
