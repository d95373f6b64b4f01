"""Where bytes from outside are read. Each target takes any bytes; it may refuse them with an error of ours, and nothing else.

``python -m fuzzing.targets`` writes the seeds of the corpus anew.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import polars as pl
import pyarrow as pa
from fastiot.core.serialization import serialize_to_bin
from fastiot.msg import Thing
from nats.aio.client import Client
from nats.aio.msg import Msg

from complex_system.collection import Collector
from complex_system.describe.command import describe_to
from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import Page, decode_page, encode_page, processed_schema, raw_schema
from complex_system.domain.records import raw_check
from complex_system.errors import ComplexSystemError, InvalidRequestError
from complex_system.messaging.ingest.publisher import published_records
from complex_system.messaging.reading_messages import Decoder
from complex_system.messaging.things import serialize_from_bin, to_thing
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.operations import SERVICE_HEARTBEAT
from complex_system.protocol.serving import PREDICTION_MADE
from complex_system.protocol.training import TRAIN_MODEL
from complex_system.service_layer.database.requests import processed_of
from complex_system.serving.requests.examples import example_columns, example_record
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.requests.tensor_bytes import tensor_bytes
from complex_system.serving.requests.tensors import decode_inference, inference_batch
from complex_system.serving.rest.mlflow_scoring import read_csv, read_json
from complex_system.sources.replay import ReplayFile
from spreadsheets import write_excel

CORPUS = Path(__file__).parent / "corpus"
MAX_RECORDS = 10_000
DATASET = Dataset.load()
PIPELINE = Pipeline(DATASET)
PRESS = Dataset.parse("""
name: press
target: strength
columns: [{name: temp, type: number, optional: true, fill: 20, range: [0, 99]}, {name: strength, type: number, optional: true}]
pipeline: [{step: keep, column: temp}]
collect:
  things: [press-4.*]
  columns: {temp: {name: temperature, over: 10s, take: mean, unit: degC}}
  record: {on: 'thing "press-4.part_done"', id: value, wait: 0.3s}
  label: {column: strength, from: 'subject "lab.results"', match: id}
""")
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
READER = BatchReader(PIPELINE, max_records=MAX_RECORDS)
CHECK = raw_check(DATASET)
PACKED = (".csv.gz", ".jsonl.gz", ".parquet", ".xlsx", ".csv", ".jsonl", ".ods", ".parquet.gz", ".json", ".tsv.gz")
"""Formats of files; the first byte of an input chooses one."""
DESCRIBED = (".csv", ".jsonl", ".json", ".tsv", ".csv.gz")
"""The same for files that are described."""


def page(data: bytes) -> None:
    """An Arrow page, as the database service and serving take it."""
    table = decode_page(data).table
    table.to_pylist()
    for read in (lambda: processed_of(data, DATASET), lambda: READER.table(table).features(PIPELINE)):
        _may_refuse(read)


def ingest(data: bytes) -> None:
    """A published message."""
    CHECK(published_records(data))


def predict(data: bytes) -> None:
    """A body of ``/predict``."""
    READER.body(data).features(PIPELINE)


def inference(data: bytes) -> None:
    """A body of ``/v2/models/{name}/infer``."""
    inference_batch(decode_inference(data), READER).features(PIPELINE)


def binary(data: bytes) -> None:
    """The same with binary data behind the JSON; the first two bytes are the length of the JSON that the header has."""
    length = str(int.from_bytes(data[:2], "little"))
    inference_batch(decode_inference(data[2:], length), READER).features(PIPELINE)


def invocations(data: bytes) -> None:
    """A JSON body of ``/invocations``."""
    read_json(READER, data).features(PIPELINE)


def csv(data: bytes) -> None:
    """A CSV body of ``/invocations``."""
    read_csv(READER, data).features(PIPELINE)


def packed(data: bytes) -> None:
    """A file that is replayed, compressed or not."""
    suffix = PACKED[data[0] % len(PACKED)] if data else PACKED[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"records{suffix}"
        path.write_bytes(data[1:])
        for batch in ReplayFile(path, DATASET).batches(1000):
            assert batch


def described(data: bytes) -> None:
    """A file that ``describe-data`` gets, with summary, declaration and report."""
    suffix = DESCRIBED[data[0] % len(DESCRIBED)] if data else DESCRIBED[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"records{suffix}"
        path.write_bytes(data[1:])
        out = io.StringIO()
        describe_to(
            path, "", path.with_name("dataset.yaml"), force=False, report=path.with_name("report.html"), out=out, err=out
        )


def thing(data: bytes) -> None:
    """A message on one of the subjects, in FastIoT's format."""
    try:
        found = serialize_from_bin(Thing, data)
    except Exception as error:
        raise InvalidRequestError(str(error)) from error  # as messaging.connection does
    for decode in (TRAIN_MODEL.decode_request, SERVICE_HEARTBEAT.decode, PREDICTION_MADE.decode):
        _may_refuse(lambda decode=decode: decode(found.value))


def reading(data: bytes) -> None:
    """A message of a sensor or a laboratory, and what the collection makes of it."""
    collecting = PRESS.collect
    assert collecting is not None
    collector = Collector(collecting, PRESS)
    for place, subject in enumerate(("things.press-4.temperature", "v1.thing.press-4.part_done", "lab.results"), 1):
        message = Msg(Client(), subject, f"$JS.ACK.READINGS.c.1.{place}.{place}.1780000000000000000.0", data)
        collector.add(Decoder(collecting.label).decode([message]).readings)
    collector.due(datetime(2027, 1, 1, tzinfo=UTC))
    collector.sensors(datetime(2027, 1, 1, tzinfo=UTC))


def _may_refuse(call: Callable[[], Any]) -> None:
    with contextlib.suppress(ComplexSystemError):
        call()


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (page, ingest, predict, inference, binary, invocations, csv, packed, described, thing, reading)
}


def run(name: str, data: bytes) -> None:
    """Give an input to a target; an error of ours is an answer."""
    _may_refuse(lambda: TARGETS[name](data))


# Seeds


def seeds() -> dict[str, list[bytes]]:
    """Small good inputs of each target, from which the search begins."""
    records = list(Laboratory(seed=5).records(3))
    raw = pa.Table.from_pylist(records, schema=raw_schema(DATASET))
    processed = pa.Table.from_pylist(PIPELINE.process(records).to_dicts(), schema=processed_schema(DATASET))
    columns = example_columns(DATASET, 2)
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    one = example_record(DATASET, 0)
    width = len(DATASET.feature_names)
    features = [{"name": "features", "shape": [1, width], "datatype": "FP32", "data": [0.5] * width}]
    tensors = [
        {"name": name, "shape": [2, 1], "datatype": "BYTES" if isinstance(values[0], str) else "FP64", "data": values}
        for name, values in columns.items()
    ]
    lines = pl.DataFrame(records).write_csv().encode()
    parquet = io.BytesIO()
    pl.DataFrame(records).write_parquet(parquet)
    texts = [lines, lines.replace(b",", b";").replace(b".", b","), b"\n".join(map(_json, records))]
    files = [
        (0, gzip.compress(lines, mtime=0)),
        (1, gzip.compress(texts[2], mtime=0)),
        (2, parquet.getvalue()),
        (4, lines),
        (4, texts[1]),
        (5, texts[2]),
        (3, _workbook(records)),
        (7, gzip.compress(parquet.getvalue(), mtime=0)),
        (8, _json(records)),
        (8, _json([{**records[0], "laborant": {"$oid": "TK"}, "oven": {"temp": [1, 2]}}, {**records[1], "oven": None}])),
        (
            5,
            b'{"_id": {"$oid": "a"}, "datum": {"$date": {"$numberLong": "5"}}, "material_id": "00000000", "material_id": NaN}',
        ),
        (9, gzip.compress(lines.replace(b",", b"\t"), mtime=0)),
    ]
    values: list[Any] = [records, one, {"round": "r1"}, {"service": "ml_consumer", "replica": "a", "state": "ready"}]
    return {
        "page": [encode_page(Page(raw, "key", {"version": "a"})), encode_page(Page(processed)), encode_page(Page(raw.slice(0, 0)))],
        "ingest": [_json(one), _json(records), serialize_to_bin(Thing, to_thing(records, "Device")), msgpack.packb({"value": one})],
        "predict": [_json(one), _json(records), _json({"records": records})],
        "inference": [_json({"id": "1", "inputs": tensors}), _json({"inputs": features, "outputs": [{"name": "prediction"}]})],
        "binary": [_binary(tensors), _binary(tensors, plain=2), _binary(features)],
        "invocations": [
            _json({"dataframe_split": {"columns": list(columns), "data": rows, "index": [0, 1]}}),
            _json({"dataframe_records": [one]}),
            _json({"instances": [one]}),
            _json({"inputs": columns}),
            _json({"inputs": [[0.5] * width]}),
        ],
        "csv": [lines, b"material_id\n00000000\n", b'"material_id"\r\n"00000000"\r\n'],
        "packed": [struct.pack("B", place) + content for place, content in files],
        "described": [
            struct.pack("B", place) + content
            for place, content in [(0, lines), (0, texts[1]), (1, texts[2]), (2, _json(records)), (4, gzip.compress(lines, mtime=0))]
        ] + [b"\0" + _plant(), b"\2" + _json({"a": 1})],
        "thing": [serialize_to_bin(Thing, to_thing(value, "Device")) for value in values],
        "reading": [
            serialize_to_bin(Thing, Thing(machine="press-4", name="temperature", value=61.5, timestamp=NOON, unit="degF")),
            serialize_to_bin(Thing, Thing(machine="press-4", name="part_done", value="P-1", timestamp=NOON)),
            _json([{"value": 61.5, "timestamp": NOON.isoformat(), "unit": "K"}, {"value": True, "timestamp": NOON.timestamp()}]),
            _json({"id": "P-1", "strength": 41.5, "timestamp": 1000 * NOON.timestamp()}),
            b"21.5",
            b"ON",
        ],
    }  # fmt: skip


def _binary(tensors: list[dict[str, Any]], plain: int = 0) -> bytes:
    """Return a request with the length of its JSON; the first ``plain`` tensors stay JSON."""
    inputs, parts = tensors[:plain], []
    for tensor in tensors[plain:]:
        parts.append(tensor_bytes(tensor["datatype"], tensor["data"]))
        inputs.append({**tensor, "parameters": {"binary_data_size": len(parts[-1])}, "data": None})
    head = _json({"inputs": inputs, "parameters": {"binary_data_output": True}})
    return struct.pack("<H", len(head)) + head + b"".join(parts)


def _plant() -> bytes:
    """Return a table with what describing looks for: times, a counter, codes, limits, percent signs, gaps, copies."""
    rows = [
        f"{i};C-{i:03};0{i % 9 + 1}.02.2025 {i % 24:02}:00;{20 + i % 7},{i % 10};{'-9999' if i == 5 else i * 3};"
        f"{'<0,01' if i % 9 == 0 else f'0,{i % 8 + 1}'};{i % 100} %;{'ja' if i % 2 else 'nein'};{'k.A.' if i == 7 else 'rot'};"
        f"{i % 11},5"
        for i in range(40)
    ]
    head = "Nr;Charge;Zeit;Temp [°C];Druck;Spuren mg/l;Feuchte;Offen;Farbe;Ausbeute"
    return "\r\n".join([head, *rows, rows[-1], "Summe;;;;;;;;;205"]).encode("cp1252")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _workbook(records: list[dict[str, Any]]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_excel(Path(folder) / "a.xlsx", records).read_bytes()


def main() -> None:
    """Write the seeds."""
    for name, inputs in seeds().items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for place, data in enumerate(inputs):
            (folder / f"seed-{place}").write_bytes(data)


if __name__ == "__main__":
    main()
