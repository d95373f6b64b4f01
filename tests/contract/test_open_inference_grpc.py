"""The Open Inference Protocol over gRPC, as kserve/open-inference-protocol publishes it, and the standard health service."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_tools import protoc

from certificates import write_certificates
from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import StartError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.serving import ORIGIN_HEADER
from complex_system.serving.engine import Limits
from complex_system.serving.grpc import open_inference_pb2 as pb
from complex_system.serving.grpc import server as grpc_module
from complex_system.serving.grpc.server import HEALTH, INFERENCE, GrpcServer
from complex_system.serving.rest.endpoint import Backend
from complex_system.tracking.model_files import SAMPLE_FILE
from models import ManyModels, grpc_server
from support import eventually
from trainings import quick_sample

SRC = Path(pb.__file__).parents[3]
DATASET = Dataset.load()
NAME = "lab-lightgbm"
NUMBERS = [f"rohwert_{i}_labormessung" for i in (1, 2, 3)]
RECORDS = [Laboratory(seed=3).complete_record() for _ in range(3)]


def registry() -> ManyModels:
    source = ManyModels(DATASET)
    source.publish(NAME, 1.0)
    source.publish(NAME, 2.0, champion=True)
    source.publish("lab-older", 5.0, files={})
    source.files = {SAMPLE_FILE: quick_sample()}
    return source


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[tuple[Backend, grpc.aio.Channel]]:
    limits = Limits(body_bytes=200_000, records=5000)
    async with (
        grpc_server(DATASET, registry(), limits) as (backend, server),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield backend, channel


@pytest.fixture
def channel(served: tuple[Backend, grpc.aio.Channel]) -> grpc.aio.Channel:
    return served[1]


def call(channel: grpc.aio.Channel, method: str, request: Any = None, **metadata: str) -> Any:
    """Calls a method of the protocol; without a request with an empty one."""
    kind, answer = (getattr(pb, f"{method}{each}") for each in ("Request", "Response"))
    made = channel.unary_unary(f"/{INFERENCE}/{method}", kind.SerializeToString, answer.FromString)
    sent = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
    return made(kind() if request is None else request, metadata=sent, timeout=20)


async def refused(awaitable: Any, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    assert caught.value.code() == code, caught.value
    return str(caught.value.details())


def columns(records: list[dict[str, Any]]) -> dict[str, tuple[str, list[Any]]]:
    texts = {name: ("BYTES", [record[name] or "" for record in records]) for name in ("material_id", "laborant")}
    return texts | {name: ("FP64", [record[name] for record in records]) for name in NUMBERS}


def typed(inputs: dict[str, tuple[str, list[Any]]], **fields: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(**{"model_name": NAME, **fields})
    for name, (datatype, data) in inputs.items():
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[len(data), 1])
        field = {"BYTES": "bytes", "BOOL": "bool"}.get(datatype, datatype.lower())
        field = "uint" if field in ("uint8", "uint16", "uint32") else "int" if field in ("int8", "int16", "int32") else field
        values = [each.encode() for each in data] if datatype == "BYTES" else data
        getattr(tensor.contents, f"{field}_contents").extend(values)
    return request


def raw(inputs: dict[str, tuple[str, list[Any]]], **fields: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(**{"model_name": NAME, **fields})
    for name, (datatype, data) in inputs.items():
        request.inputs.add(name=name, datatype=datatype, shape=[len(data)])
        texts = b"".join(struct.pack("<I", len(str(each).encode())) + str(each).encode() for each in data)
        kinds = {"FP64": "<f8", "FP32": "<f4", "BOOL": "?", "INT32": "<i4", "UINT8": "u1"}
        request.raw_input_contents.append(texts if datatype == "BYTES" else np.array(data, kinds[datatype]).tobytes())
    return request


def expected(bias: float, records: list[dict[str, Any]]) -> Any:
    return pytest.approx([bias + float(row.sum()) for row in Pipeline(DATASET).features(records)], rel=1e-5)


def raw_floats(answer: pb.ModelInferResponse, place: int = 0) -> list[float]:
    return np.frombuffer(answer.raw_output_contents[place], "<f4").tolist()  # type: ignore[no-any-return]


def test_the_generated_code_is_that_of_the_protocol(tmp_path: Path) -> None:
    """After a change of the file: ``make proto``."""
    name = "complex_system/serving/grpc/open_inference.proto"
    assert protoc.main(["protoc", f"-I{SRC}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", name]) == 0
    for each in ("open_inference_pb2.py", "open_inference_pb2.pyi"):
        made = (tmp_path / name).with_name(each)
        assert made.read_bytes() == (SRC / name).with_name(each).read_bytes()


async def test_the_server_is_live_ready_and_says_what_it_is(channel: grpc.aio.Channel) -> None:
    assert (await call(channel, "ServerLive")).live
    assert (await call(channel, "ServerReady")).ready
    about = await call(channel, "ServerMetadata")
    assert (about.name, about.version, list(about.extensions)) == ("complex-system", __version__, ["binary_tensor_data"])


async def test_a_model_is_ready_and_says_what_it_takes(channel: grpc.aio.Channel) -> None:
    for name, version, versions in ((NAME, "", ["1", "2"]), (NAME, "1", ["1"]), ("champion", "", ["2"])):
        assert (await call(channel, "ModelReady", pb.ModelReadyRequest(name=name, version=version))).ready
        about = await call(channel, "ModelMetadata", pb.ModelMetadataRequest(name=name, version=version))
        assert (about.name, list(about.versions), about.platform) == (name, versions, "onnxruntime_onnx")
        inputs = {each.name: (each.datatype, list(each.shape)) for each in about.inputs}
        assert inputs["material_id"] == ("BYTES", [-1, 1])
        assert inputs[NUMBERS[0]] == ("FP64", [-1, 1])
        assert [(each.name, each.datatype, list(each.shape)) for each in about.outputs] == [("prediction", "FP32", [-1, 1])]
    for method, kind in (("ModelReady", pb.ModelReadyRequest), ("ModelMetadata", pb.ModelMetadataRequest)):
        text = await refused(call(channel, method, kind(name="nobody")), grpc.StatusCode.NOT_FOUND)
        assert "nobody" in text


@pytest.mark.parametrize("count", [1, 3, 400])
async def test_typed_and_raw_contents_predict_the_same_and_answers_are_as_the_request(
    channel: grpc.aio.Channel, count: int
) -> None:
    records = [RECORDS[i % 3] for i in range(count)]
    answer = await call(channel, "ModelInfer", typed(columns(records), id="42"))
    assert (answer.id, answer.model_name, answer.model_version) == ("42", NAME, "2")
    assert answer.parameters["registered_name"].string_param == NAME
    assert answer.parameters["pipeline_version"].string_param == DATASET.version
    [output] = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("prediction", "FP32", [count, 1])
    assert list(output.contents.fp32_contents) == expected(2.0, records)
    assert not answer.raw_output_contents
    answer = await call(channel, "ModelInfer", raw(columns(records), model_version="1"))
    assert answer.id == ""
    assert answer.model_version == "1"
    assert raw_floats(answer) == expected(1.0, records)
    assert not answer.outputs[0].HasField("contents")


async def test_every_typed_field_is_read_and_nan_is_missing(channel: grpc.aio.Channel) -> None:
    material = {"material_id": ("BYTES", ["00000000"])}
    for datatype in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP32", "FP64"):
        answer = await call(channel, "ModelInfer", typed(material | {NUMBERS[0]: (datatype, [7])}))
        assert list(answer.outputs[0].contents.fp32_contents) == expected(
            2.0, [{"material_id": "00000000", NUMBERS[0]: 7.0}]
        )
    for made in (typed, raw):
        answer = await call(channel, "ModelInfer", made(material | {NUMBERS[0]: ("FP64", [float("nan")])}))
        found = raw_floats(answer) if made is raw else list(answer.outputs[0].contents.fp32_contents)
        assert found == expected(2.0, [{"material_id": "00000000"}])
    text = await refused(call(channel, "ModelInfer", typed(material | {NUMBERS[0]: ("INT8", [200])})))
    assert "must be an integer of -128 to 127 (INT8), not 200" in text


async def test_processed_features_are_taken(channel: grpc.aio.Channel) -> None:
    features = Pipeline(DATASET).features(RECORDS)
    request = pb.ModelInferRequest(model_name=NAME)
    request.inputs.add(name="features", datatype="FP32", shape=features.shape)
    request.raw_input_contents.append(features.tobytes())
    assert raw_floats(await call(channel, "ModelInfer", request)) == expected(2.0, RECORDS)
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(features.ravel().tolist())
    answer = await call(channel, "ModelInfer", request)
    assert list(answer.outputs[0].contents.fp32_contents) == expected(2.0, RECORDS)


async def test_intervals_and_warnings_are_further_outputs(channel: grpc.aio.Channel) -> None:
    for made in (typed, raw):
        request = made(columns(RECORDS))
        request.parameters["interval"].double_param = 0.9
        request.parameters["warnings"].bool_param = True
        answer = await call(channel, "ModelInfer", request)
        kinds = [(output.name, output.datatype) for output in answer.outputs]
        assert kinds == [("prediction", "FP32"), ("lower", "FP32"), ("upper", "FP32"), ("warnings", "BYTES")]
        middle, lower, upper = (
            raw_floats(answer, place) if made is raw else list(answer.outputs[place].contents.fp32_contents)
            for place in range(3)
        )
        assert upper == pytest.approx([each + 90 for each in middle], rel=1e-5)
        assert lower == pytest.approx([each - 90 for each in middle], rel=1e-5)
        request.outputs.add(name="upper")
        assert [output.name for output in (await call(channel, "ModelInfer", request)).outputs] == ["upper"]
    request = raw(columns(RECORDS), model_name="lab-older")
    request.parameters["interval"].double_param = 0.9
    assert "no intervals" in await refused(call(channel, "ModelInfer", request), grpc.StatusCode.FAILED_PRECONDITION)


def bad_requests() -> dict[str, tuple[pb.ModelInferRequest, str]]:
    both = raw({"material_id": ("BYTES", ["00000000"])})
    both.inputs[0].contents.bytes_contents.append(b"00000000")
    few = raw(columns(RECORDS))
    del few.raw_input_contents[-1]
    short = raw({"material_id": ("BYTES", ["00000000"]), NUMBERS[0]: ("FP64", [1.0])})
    short.raw_input_contents[1] = b"\0" * 7
    half = pb.ModelInferRequest(model_name=NAME)
    half.inputs.add(name=NUMBERS[0], datatype="FP16", shape=[1])
    text = typed({"material_id": ("BYTES", ["00000000"])})
    text.inputs[0].contents.bytes_contents[0] = b"\xff"
    negative = typed({"material_id": ("BYTES", ["00000000"])})
    negative.inputs[0].shape[0] = -1
    level = raw(columns(RECORDS))
    level.parameters["interval"].string_param = "wide"
    output = raw(columns(RECORDS))
    output.outputs.add(name="nothing")
    return {
        "no inputs": (pb.ModelInferRequest(model_name=NAME), "no inputs"),
        "both contents": (both, "send one of them"),
        "raw contents missing": (few, "5 inputs and 4 raw_input_contents"),
        "raw bytes missing": (short, "has 7 bytes where 1 elements of FP64 need 8"),
        "no typed contents of halves": (half, "send it as raw_input_contents"),
        "not UTF-8": (text, "not UTF-8"),
        "negative dimension": (negative, "negative dimension"),
        "typed contents missing": (typed({"material_id": ("BYTES", ["0"]), "laborant": ("BYTES", [])}), "equally long"),
        "an unknown category": (raw({"material_id": ("BYTES", ["9"])}), "'9' is not one of"),
        "a needed column missing": (raw({NUMBERS[0]: ("FP64", [1.0])}), "'material_id': is missing"),
        "an unknown output": (output, "no output 'nothing'"),
        "a level in words": (level, "'interval' is the level"),
    }


@pytest.mark.parametrize("name", bad_requests())
async def test_a_bad_request_is_an_invalid_argument_with_a_sentence(channel: grpc.aio.Channel, name: str) -> None:
    request, words = bad_requests()[name]
    assert words in await refused(call(channel, "ModelInfer", request))


async def test_all_faults_are_told_within_what_a_trailer_may_hold(channel: grpc.aio.Channel) -> None:
    text = await refused(call(channel, "ModelInfer", raw({"material_id": ("BYTES", ["€" * 60] * 20)})))
    assert text.startswith("20 faults: record 0, 'material_id': '€€€")
    assert 1000 < len(text.encode()) < 4000
    assert text.endswith("...")
    bad = await refused(call(channel, "ModelInfer", raw({"material_id": ("BYTES", ["9", "8"])})))
    assert bad.startswith("2 faults: record 0")


async def test_bytes_that_are_no_message_are_refused(channel: grpc.aio.Channel) -> None:
    method = channel.unary_unary(f"/{INFERENCE}/ModelInfer")
    assert "inference.ModelInferRequest" in await refused(method(b"\xff\xff", timeout=20))
    unknown = channel.unary_unary(f"/{INFERENCE}/RepositoryIndex")
    await refused(unknown(b"", timeout=20), grpc.StatusCode.UNIMPLEMENTED)


async def test_the_limits_are_those_of_rest(channel: grpc.aio.Channel) -> None:
    many = raw({"material_id": ("BYTES", ["00000000"] * 5001)})
    assert "5001 records" in await refused(call(channel, "ModelInfer", many), grpc.StatusCode.RESOURCE_EXHAUSTED)
    large = raw({NUMBERS[0]: ("FP64", [1.0] * 30_000)})
    text = await refused(call(channel, "ModelInfer", large), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert "larger than max" in text
    assert "200000" in text
    for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        bomb = channel.unary_unary(f"/{INFERENCE}/ModelInfer")(b"\0" * 5_000_000, timeout=20, compression=algorithm)
        await refused(bomb, grpc.StatusCode.UNIMPLEMENTED)


async def test_messages_wait_for_room_before_they_are_received(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(body_bytes=200_000)
    async with (
        grpc_server(DATASET, registry(), limits, received=200_000) as (_, server),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        slow = channel.stream_unary(f"/{INFERENCE}/ModelInfer")(metadata=())
        await slow.wait_for_connection()
        monkeypatch.setattr("complex_system.http.limits.WAIT_SECONDS", 0.1)

        async def refusal() -> str:
            try:
                await call(channel, "ModelReady", pb.ModelReadyRequest(name=NAME))
            except grpc.aio.AioRpcError as error:
                return f"{error.code()}: {error.details()}"
            return ""

        text = await eventually(refusal)
        assert text.startswith("StatusCode.RESOURCE_EXHAUSTED: ")
        assert "send this one again later" in text
        # Calls that need no key have room of their own: probes are answered, and they hold up nobody but each other.
        assert await health(channel) == health_pb2.HealthCheckResponse.SERVING
        stalled = channel.stream_unary(f"/{HEALTH}/Check")(metadata=())
        await stalled.wait_for_connection()

        async def full() -> bool:
            try:
                await health(channel)
            except grpc.aio.AioRpcError as error:
                return "send this one again later" in str(error.details())
            return False

        assert await eventually(full)
        stalled.cancel()
        monkeypatch.setattr("complex_system.http.limits.WAIT_SECONDS", 60.0)
        waiting = [asyncio.ensure_future(call(channel, "ModelInfer", raw(columns(RECORDS)))) for _ in range(20)]
        large = channel.stream_unary(f"/{INFERENCE}/ModelInfer")(metadata=())
        sending = asyncio.ensure_future(large.write(b"\xff" * 190_000))
        done, _ = await asyncio.wait([*waiting, sending], timeout=0.2)
        assert not done  # the large one is not sent, either
        await slow.write(raw(columns(RECORDS)).SerializeToString())
        await slow.done_writing()
        assert await slow
        for answer in await asyncio.gather(*waiting):
            assert raw_floats(answer) == expected(2.0, RECORDS)
        await sending
        await large.done_writing()
        assert "not a inference.ModelInferRequest" in await refused(large)
        gone = channel.stream_unary(f"/{INFERENCE}/ModelInfer")(metadata=())
        await gone.wait_for_connection()
        gone.cancel()
        assert raw_floats(await call(channel, "ModelInfer", raw(columns(RECORDS)))) == expected(2.0, RECORDS)


async def test_a_message_must_arrive_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("complex_system.serving.grpc.server.BODY_SECONDS", 0.2)
    limits = Limits(body_bytes=200_000)
    async with (
        grpc_server(DATASET, registry(), limits, received=200_000) as (backend, server),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        for path in (f"/{INFERENCE}/ModelInfer", f"/{HEALTH}/Check"):
            text = await refused(channel.stream_unary(path)(metadata=()), grpc.StatusCode.DEADLINE_EXCEEDED)
            assert "within 0.2 s" in text
        monkeypatch.setattr("complex_system.serving.grpc.server.BODY_SECONDS", 60.0)
        empty = channel.stream_unary(f"/{INFERENCE}/ModelInfer")(metadata=())
        await empty.done_writing()
        assert "no message" in await refused(empty)
        assert raw_floats(await call(channel, "ModelInfer", raw(columns(RECORDS)))) == expected(2.0, RECORDS)
        assert backend.metrics.failures.take() == {"invalid_request": 2}


async def test_calls_are_counted_as_over_rest(served: tuple[Backend, grpc.aio.Channel]) -> None:
    backend, channel = served
    backend.metrics.failures.take()
    await call(channel, "ModelInfer", raw(columns(RECORDS)))
    await refused(call(channel, "ModelInfer", raw({"material_id": ("BYTES", ["9"])})))
    await refused(call(channel, "ModelInfer", pb.ModelInferRequest(model_name="x")), grpc.StatusCode.NOT_FOUND)
    text = backend.metrics.text().decode()
    route = f"/{INFERENCE}/ModelInfer"
    for labels in (
        f'model="{NAME}",route="{route}",status="200",version="2"',
        f'model="{NAME}",route="{route}",status="400",version="2"',
        f'model="",route="{route}",status="404",version=""',
    ):
        assert f"serving_requests_total{{{labels}}}" in text
    assert f'serving_batch_records_bucket{{le="5.0",route="{route}"}}' in text
    assert "serving_requests_in_progress 0.0" in text
    assert backend.metrics.failures.take() == {"invalid_record": 1, "unknown_model": 1}


async def test_who_asks_is_told_apart(served: tuple[Backend, grpc.aio.Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    backend, channel = served
    origins: list[str] = []
    monkeypatch.setattr(backend.engine, "_predicted", lambda result: origins.append(result.origin))
    for origin in ("own", "probe", "nonsense"):
        await call(channel, "ModelInfer", raw(columns(RECORDS)), **{ORIGIN_HEADER.decode(): origin})
    await call(channel, "ModelInfer", raw(columns(RECORDS), model_version="1"))  # not the champion
    assert origins == ["own", "probe", "live"]


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    states = health_pb2.HealthCheckResponse
    check = channel.unary_unary(f"/{HEALTH}/Check", health_pb2.HealthCheckRequest.SerializeToString, states.FromString)
    return (await check(health_pb2.HealthCheckRequest(service=service), timeout=20)).status  # type: ignore[no-any-return]


async def test_without_a_model_nothing_is_ready_and_health_follows() -> None:
    source = ManyModels(DATASET)
    states = health_pb2.HealthCheckResponse
    async with grpc_server(DATASET, source) as (backend, server), grpc.aio.insecure_channel(server.address) as channel:
        assert (await call(channel, "ServerLive")).live
        assert not (await call(channel, "ServerReady")).ready
        assert not (await call(channel, "ModelReady", pb.ModelReadyRequest(name="champion"))).ready
        text = await refused(
            call(channel, "ModelInfer", raw(columns(RECORDS), model_name="champion")), grpc.StatusCode.UNAVAILABLE
        )
        assert "no model yet" in text
        assert await health(channel) == await health(channel, INFERENCE) == states.NOT_SERVING
        await refused(health(channel, "other"), grpc.StatusCode.NOT_FOUND)
        watch = channel.unary_stream(f"/{HEALTH}/Watch", health_pb2.HealthCheckRequest.SerializeToString, states.FromString)(
            health_pb2.HealthCheckRequest(), timeout=30
        )
        seen = [(await watch.read()).status]
        source.publish(NAME, 1.0, champion=True)
        await backend.engine.models.refresh()
        assert await health(channel) == states.SERVING
        seen.append((await watch.read()).status)
        stopping = asyncio.create_task(server.stop())
        seen.append((await watch.read()).status)
        assert seen == [states.NOT_SERVING, states.SERVING, states.NOT_SERVING]
        await stopping


async def test_more_than_some_watches_are_refused_and_a_check_is_not(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_module, "_MAX_WATCHES", 2)
    states = health_pb2.HealthCheckResponse
    watch = channel.unary_stream(f"/{HEALTH}/Watch", health_pb2.HealthCheckRequest.SerializeToString, states.FromString)
    asked = health_pb2.HealthCheckRequest()
    watches = [watch(asked, timeout=30) for _ in range(2)]
    assert [(await each.read()).status for each in watches] == [states.SERVING] * 2
    text = await refused(watch(asked, timeout=30).read(), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert "2 clients watch already" in text
    assert await health(channel) == states.SERVING
    watches.pop().cancel()
    async with asyncio.timeout(30):
        while True:
            again = watch(asked, timeout=30)
            with contextlib.suppress(grpc.aio.AioRpcError):
                assert (await again.read()).status == states.SERVING
                break
    for each in (*watches, again):
        each.cancel()


async def test_the_key_is_asked_for_but_not_by_probes() -> None:
    async with (
        grpc_server(DATASET, registry(), api_key="secret") as (backend, server),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        assert (await call(channel, "ServerLive")).live
        assert (await call(channel, "ServerReady")).ready
        assert await health(channel) == health_pb2.HealthCheckResponse.SERVING
        for method in ("ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"):
            for wrong in ({}, {"x_api_key": "wrong"}, {"authorization": "Bearer wrong"}):
                text = await refused(call(channel, method, **wrong), grpc.StatusCode.UNAUTHENTICATED)
                assert "API key" in text
        for good in ({"x_api_key": "secret"}, {"authorization": "Bearer secret"}):
            answer = await call(channel, "ModelInfer", raw(columns(RECORDS)), **good)
            assert raw_floats(answer) == expected(2.0, RECORDS)
        assert backend.metrics.failures.take() == {"unauthorized": 3}


async def test_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    write_certificates(tmp_path)
    files = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    async with grpc_server(DATASET, registry(), **files) as (_, server):
        trusted, others = (grpc.ssl_channel_credentials((tmp_path / name).read_bytes()) for name in ("ca.pem", "other.pem"))
        async with grpc.aio.secure_channel(server.address, trusted) as channel:
            assert raw_floats(await call(channel, "ModelInfer", raw(columns(RECORDS)))) == expected(2.0, RECORDS)
        async with grpc.aio.secure_channel(server.address, others) as channel:
            await refused(call(channel, "ServerLive"), grpc.StatusCode.UNAVAILABLE)
        async with grpc.aio.insecure_channel(server.address) as channel:
            await refused(call(channel, "ServerLive"), grpc.StatusCode.UNAVAILABLE)


async def test_what_cannot_be_started_says_why(tmp_path: Path) -> None:
    async with grpc_server(DATASET, registry()) as (backend, server):
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}"):
            await GrpcServer(backend, "127.0.0.1", port).start()
        with pytest.raises(StartError, match="needs both"):
            await GrpcServer(backend, "127.0.0.1", 0, certificate="a.pem").start()
        with pytest.raises(StartError, match="cannot be read"):
            await GrpcServer(backend, "127.0.0.1", 0, certificate="a.pem", key=str(tmp_path / "b")).start()


async def test_a_call_in_progress_ends_before_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    async with grpc_server(DATASET, registry()) as (backend, server), grpc.aio.insecure_channel(server.address) as channel:
        begun, go_on = asyncio.Event(), asyncio.Event()
        predict = backend.engine.predict_batch

        async def slow(*arguments: Any, **options: Any) -> Any:
            begun.set()
            await go_on.wait()
            return await predict(*arguments, **options)

        monkeypatch.setattr(backend.engine, "predict_batch", slow)
        answer = asyncio.ensure_future(call(channel, "ModelInfer", raw(columns(RECORDS))))
        await begun.wait()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        go_on.set()
        assert raw_floats(await answer) == expected(2.0, RECORDS)
        await stopping
        await refused(call(channel, "ServerLive"), grpc.StatusCode.UNAVAILABLE)
