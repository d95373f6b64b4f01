"""Traces and JSON logs of real services, in processes of their own; a receiver in this process takes the traces over OTLP/HTTP."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import mlflow
import nats
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from complex_system.domain.dataset import Dataset
from complex_system.local.processes import Child
from complex_system.local.servers import Server, free_port
from complex_system.messaging.subjects import PROCESS_RAW
from complex_system.messaging.users import service_user
from complex_system.serving.grpc import open_inference_pb2 as pb
from complex_system.serving.requests.examples import example_record
from models import linear_onnx, register_onnx
from support import BROKER_PASSWORD, eventually

SERVICES = ("database_mongo", "data_processing", "ml_serving_mlflow")
API_KEY = "kT7wq9-Zx4Rb"
PARENT_SPAN = "00f067aa0ba902b7"


@dataclass(frozen=True)
class Recorded:
    """A span as it arrived."""

    service: str
    replica: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any] = field(default_factory=dict)


class Collector(ThreadingHTTPServer):
    """Takes what OTLP exporters post."""

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: list[Recorded] = []
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def trace(self, trace_id: str) -> dict[str, Recorded]:
        return {f"{span.service} {span.name}": span for span in self.spans if span.trace == trace_id}


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.server.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert about["service.version"]
            for scope in resource.scope_spans:
                self.server.spans += [_recorded(about, span) for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def _recorded(about: dict[str, str], span: Any) -> Recorded:
    assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
    attributes = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
    return Recorded(
        about["service.name"], about["service.instance.id"], span.name, span.trace_id.hex(), span.span_id.hex(),
        span.parent_span_id.hex(), attributes,
    )  # fmt: skip


@dataclass
class Deployment:
    """Services that run, and who takes their traces."""

    collector: Collector
    broker: str
    url: str
    logs: dict[str, Path]

    def lines(self, service: str) -> list[dict[str, Any]]:
        """The log of a service but for a line that is being written; every line is a JSON object."""
        return [json.loads(line) for line in self.logs[service].read_text().rpartition("\n")[0].splitlines()]


@pytest.fixture(scope="module")
async def deployment(
    nats_server: Server, mongo_server: Server, mlflow_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    folder, prefix, collector = tmp_path_factory.mktemp("traced"), f"t{uuid.uuid4().hex[:8]}", Collector()
    dataset = Dataset.load()
    mlflow.set_tracking_uri(mlflow_server.url)
    register_onnx(mlflow_server.url, dataset, linear_onnx(dataset, 1.0), prefix=prefix)
    shared: dict[str, str] = {
        **nats_server.environment(), **mongo_server.environment(), **mlflow_server.environment(),
        "FASTIOT_CONFIG_DIR": os.environ["FASTIOT_CONFIG_DIR"], "FASTIOT_MONGO_DB_NAME": prefix,
        "COMPLEX_SYSTEM_MODEL_PREFIX": prefix, "COMPLEX_SYSTEM_API_KEY": API_KEY, "COMPLEX_SYSTEM_LOG_FORMAT": "json",
        "COMPLEX_SYSTEM_SERVING_MLFLOW_PORT": "0", "COMPLEX_SYSTEM_SERVING_PIPELINE": "broker",
        "COMPLEX_SYSTEM_SERVING_MLFLOW_GRPC_PORT": str(free_port()),
        "COMPLEX_SYSTEM_PROCESSING_INTERVAL": "0.1", "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
    }  # fmt: skip
    logs = {name: folder / f"{name}.log" for name in SERVICES}
    with ExitStack() as stack:
        stack.callback(collector.server_close)
        stack.callback(collector.shutdown)
        for name, path in logs.items():
            own = {"FASTIOT_NATS_USER": service_user(name).name, "FASTIOT_SERVICE_ID": f"{name}-7"}
            child = Child(name, [sys.executable, "-m", f"complex_system_services.{name}.run"], path, {**shared, **own})
            child.start()
            stack.callback(child.stop)
        made = Deployment(collector, f"nats://127.0.0.1:{nats_server.port}", "", logs)
        serving = logs["ml_serving_mlflow"]
        made.url = (await eventually(lambda: re.search(r"REST interface at (http://[\d.:]+)", serving.read_text())))[1]
        ready = httpx.AsyncClient(base_url=made.url)
        await eventually(lambda: _is_ready(ready))
        await ready.aclose()
        await eventually(lambda: all('"message": "ready' in path.read_text() for path in logs.values()))
        yield made


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


def new_trace() -> tuple[str, str]:
    """A client's trace: its id, and the header that carries it."""
    trace = uuid.uuid4().hex
    return trace, f"00-{trace}-{PARENT_SPAN}-01"


def parents(spans: dict[str, Recorded]) -> dict[str, str]:
    """Names of the spans of a trace, and of their parents."""
    by_id = {span.id: name for name, span in spans.items()}
    return {name: by_id.get(span.parent, span.parent) for name, span in spans.items()}


async def test_a_request_over_rest_is_one_trace_across_nats(deployment: Deployment) -> None:
    trace, header = new_trace()
    secret = 3.14159
    record = {**example_record(Dataset.load()), "rohwert_1_labormessung": secret, "_id": "key-of-a-record"}
    async with httpx.AsyncClient(base_url=deployment.url, headers={"X-API-Key": API_KEY}) as client:
        reply = await client.post("/predict", json=[record], headers={"traceparent": header, "x-request-id": "press-4/17"})
        assert reply.status_code == 200
        assert (await client.get("/metrics")).status_code == 200
    spans = await eventually(lambda: len(found := deployment.collector.trace(trace)) >= 5 and found)
    subject = PROCESS_RAW.name
    assert parents(spans) == {
        "ml_serving_mlflow POST /predict": PARENT_SPAN,
        "ml_serving_mlflow features": "ml_serving_mlflow POST /predict",
        f"ml_serving_mlflow {subject}": "ml_serving_mlflow features",
        f"data_processing {subject}": f"ml_serving_mlflow {subject}",
        "ml_serving_mlflow model": "ml_serving_mlflow POST /predict",
    }
    request, model = spans["ml_serving_mlflow POST /predict"], spans["ml_serving_mlflow model"]
    assert request.replica == "ml_serving_mlflow-7"
    assert request.attributes == {
        "http.request.method": "POST", "http.route": "/predict", "http.request.id": "press-4/17",
        "http.response.status_code": 200,
    }  # fmt: skip
    assert (model.attributes["records"], model.attributes["model.version"]) == (1, "1")
    exported = b"".join(deployment.collector.bodies)
    assert b"3.14159" not in exported
    assert b"key-of-a-record" not in exported
    assert not any("/metrics" in span.name for span in deployment.collector.spans)


async def test_a_call_over_grpc_is_a_part_of_its_clients_trace(deployment: Deployment) -> None:
    trace, header = new_trace()
    pattern = re.compile(r"gRPC interface at ([\d.:]+)")
    address = pattern.search(deployment.logs["ml_serving_mlflow"].read_text())
    assert address
    request = pb.ModelInferRequest(model_name="champion")
    request.inputs.add(name="material_id", shape=[1], datatype="BYTES").contents.bytes_contents.append(b"00000000")
    route = "/inference.GRPCInferenceService/ModelInfer"
    async with grpc.aio.insecure_channel(address[1]) as channel:
        infer = channel.unary_unary(route, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
        metadata = (("traceparent", header), ("x-api-key", API_KEY))
        assert len((await infer(request, metadata=metadata, timeout=20)).outputs) == 1
    spans = await eventually(lambda: len(found := deployment.collector.trace(trace)) >= 5 and found)
    found = parents(spans)
    assert found[f"ml_serving_mlflow {route}"] == PARENT_SPAN
    assert found["ml_serving_mlflow model"] == found["ml_serving_mlflow features"] == f"ml_serving_mlflow {route}"
    assert spans[f"ml_serving_mlflow {route}"].attributes == {"rpc.system": "grpc"}


async def test_a_refused_request_has_its_code_and_no_values(deployment: Deployment) -> None:
    trace, header = new_trace()
    async with httpx.AsyncClient(base_url=deployment.url, headers={"X-API-Key": API_KEY}) as client:
        reply = await client.post("/predict", json=[{"material_id": "geheim-17"}], headers={"traceparent": header})
    assert reply.status_code == 422
    refused = await eventually(lambda: deployment.collector.trace(trace).get("ml_serving_mlflow POST /predict"))
    assert refused.attributes["error.type"] == "invalid_record"
    assert refused.attributes["http.response.status_code"] == 422
    assert not any(b"geheim-17" in body for body in deployment.collector.bodies)


async def test_a_record_is_one_trace_from_its_ingest_to_its_processing(deployment: Deployment) -> None:
    trace, header = new_trace()
    client = await nats.connect(deployment.broker)
    try:
        record = json.dumps({"material_id": "00000000", "rohwert_1_labormessung": 12.5}).encode()
        # Go's clients write the header like this.
        await client.jetstream().publish("ingest-raw-datapoints.press-4", record, headers={"Traceparent": header})
        await client.jetstream().publish("ingest-raw-datapoints.press-4", record)
    finally:
        await client.close()
    spans = await eventually(lambda: len(found := deployment.collector.trace(trace)) >= 3 and found)
    assert parents(spans) == {
        "database_mongo ingest-raw-datapoints": PARENT_SPAN,
        "database_mongo save": "database_mongo ingest-raw-datapoints",
        "data_processing process": "database_mongo save",
    }
    assert spans["data_processing process"].attributes == {"records": 1}

    def another() -> Recorded | None:
        begins = [s for s in deployment.collector.spans if s.name == "ingest-raw-datapoints" and not s.parent]
        return next(iter(begins), None)

    begun = await eventually(another)
    assert begun.trace != trace, "a message without a trace begins one"


async def test_every_line_of_the_logs_is_an_object_with_service_replica_and_request(deployment: Deployment) -> None:
    async with httpx.AsyncClient(base_url=deployment.url, headers={"X-API-Key": API_KEY}) as client:
        await client.get("/v2/models/nobody-has-this", headers={"x-request-id": "seen/1"})
    for service in SERVICES:
        lines = deployment.lines(service)
        assert {(line["service"], line["replica"]) for line in lines} == {(service, f"{service}-7")}
        assert any(line["message"].startswith("Started service") for line in lines), "FastIoT's own lines"
        for line in lines:
            assert abs((datetime.fromisoformat(line["time"]) - datetime.now(UTC)).total_seconds()) < 600
            assert line["level"] in logging.getLevelNamesMapping()
            assert line["logger"]
        text = deployment.logs[service].read_text()
        assert API_KEY not in text
        assert BROKER_PASSWORD not in text
