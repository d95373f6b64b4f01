"""Readings into records, beside a bare nats-py subscriber with polars. ``python -m benchmarks.collection [--quick]``.

One stream of a real NATS server holds the Things of 20 sensors, 20,000 a second by their own time. Each way reads all of them in a
process of its own, in turn, and makes the same records: five aggregates of every sensor for each second.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import nats
import numpy as np
import polars as pl

from benchmarks.plant import quick
from benchmarks.tables import Table
from complex_system.collection import Collector, Readings
from complex_system.domain.dataset import Dataset
from complex_system.messaging.reading_messages import Decoder

TITLE = "Readings into records"
NOTE = (
    "20 sensors, 20,000 readings a second by their own time, one record a second with mean, standard deviation, least, greatest and "
    "last value of each. Readings a second of processor time, on one core: NATS's client, decoding and aggregates together. Ours "
    "decodes as thing_collection does: msgpack or JSON, labels apart, the message's number and time. The bare subscriber decodes with "
    "msgspec and groups with polars; it knows nothing of late, repeated or disordered readings, units, silence and restarts. Ratio: "
    "median of the rounds' ratios, least to greatest. Memory is the process's largest, with its imports. The machine did other work."
)
SENSORS, RATE = 20, 20_000
TAKES = ("mean", "std", "min", "max", "last")
START = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECONDS = round(START.timestamp() * 1e6)
CHUNK = 5_000
AIM = 20_000
STREAM, SUBJECT = "THINGS", "v1.thing.press-4.*"

_COLUMNS = [(f"s{sensor}_{take}", sensor, take) for sensor in range(SENSORS) for take in TAKES]
DATASET = Dataset.parse(
    "name: press\ntarget: y\ncolumns:\n"
    + "".join(f"  - {{name: {name}, type: number, optional: true}}\n" for name, _, _ in _COLUMNS)
    + "  - {name: x, type: number, range: [0, 1], optional: true, fill: 0}\n  - {name: y, type: number, optional: true}\n"
    "pipeline:\n  - {step: keep, column: x}\ncollect:\n  things: press-4.*\n  columns:\n"
    + "".join(
        f"    {name}: {{machine: press-4, name: s{sensor}, take: {take}, over: 1s}}\n" for name, sensor, take in _COLUMNS
    )
    + "  record: {on: every 1s, wait: 1s}\n"
)


def things(first: int, count: int) -> list[bytes]:
    """Things as FastIoT packs them."""
    encode = msgspec.msgpack.Encoder().encode
    return [
        encode(
            {
                "machine": "press-4",
                "name": f"s{number % SENSORS}",
                "measurement_id": "bf1d4ab0e1c94cd5a1b6",
                "value": math.sin(number * 0.001) * (number % SENSORS),
                "timestamp": START + timedelta(microseconds=number * 1_000_000 // RATE + 1),
                "unit": "",
            }
        )
        for number in range(first, first + count)
    ]


async def _fill(url: str, count: int) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name=STREAM, subjects=[SUBJECT], storage="memory")
    for first in range(0, count, 1000):
        packed = things(first, 1000)
        sent = [client.publish(f"v1.thing.press-4.s{(first + place) % SENSORS}", each) for place, each in enumerate(packed)]
        await asyncio.gather(*sent)
        await client.flush(60)
    while (await stream.stream_info(STREAM)).state.messages < count:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await client.close()


class Ours:
    """The collector, as its service feeds it."""

    def __init__(self) -> None:
        assert DATASET.collect is not None
        self.records: dict[float, dict[str, Any]] = {}
        self._decoder, self._collector = Decoder(None), Collector(DATASET.collect, DATASET)

    def take(self, messages: list[Any]) -> None:
        self.add(self._decoder.decode(messages).readings)

    def add(self, read: Readings) -> None:
        # The stream was filled faster than in the plant: a reading arrives when it is made.
        self._collector.add(replace(read, arrived=read.timestamps))
        self._keep(datetime.fromtimestamp(int(read.timestamps[-1]) / 1e6, UTC))

    def end(self) -> None:
        self._keep(START + timedelta(days=1))

    def _keep(self, now: datetime) -> None:
        for record in self._collector.due(now):
            self.records[record.time.timestamp()] = record.values


class Bare:
    """msgspec and polars, and nothing else."""

    def __init__(self) -> None:
        self.records: dict[float, dict[str, Any]] = {}
        self._decode = msgspec.msgpack.Decoder(
            msgspec.defstruct("Packed", [("name", str), ("value", float), ("timestamp", datetime)])
        ).decode
        self._rows = pl.DataFrame(schema={"name": pl.String, "value": pl.Float64, "time": pl.Float64})

    def take(self, messages: list[Any]) -> None:
        found = [self._decode(message.data) for message in messages]
        new = pl.DataFrame(
            {
                "name": [each.name for each in found],
                "value": [each.value for each in found],
                "time": [each.timestamp.timestamp() for each in found],
            }
        )
        self._rows = pl.concat([self._rows, new])
        self._make(math.ceil(new["time"][-1]) - 1)

    def end(self) -> None:
        self._make(math.inf)

    def _make(self, until: float) -> None:
        whole = self._rows.filter(pl.col("time") <= until)
        if not len(whole):
            return
        self._rows = self._rows.filter(pl.col("time") > until)
        value = pl.col("value")
        made = whole.group_by("name", pl.col("time").ceil().alias("end")).agg(
            value.mean().alias("mean"), value.std().alias("std"), value.min().alias("min"), value.max().alias("max"),
            value.sort_by("time").last().alias("last"),
        )  # fmt: skip
        for row in made.iter_rows(named=True):
            self.records.setdefault(row["end"], {}).update({f"{row['name']}_{take}": row[take] for take in TAKES})


WAYS: dict[str, Callable[[], Ours | Bare]] = {"ours": Ours, "bare subscriber, polars": Bare}


async def _read(url: str, way: str, count: int) -> dict[str, Any]:
    client = await nats.connect(url)
    one, waiting, done, got = WAYS[way](), list[Any](), asyncio.Event(), 0

    async def on_message(message: Any) -> None:
        nonlocal got
        got += 1
        waiting.append(message)
        if len(waiting) == CHUNK or got == count:
            one.take(waiting)
            waiting.clear()
            if got == count:
                done.set()

    began, used = time.perf_counter(), time.process_time()
    await client.jetstream().subscribe(
        SUBJECT, stream=STREAM, ordered_consumer=True, cb=on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
    )
    await done.wait()
    one.end()
    used, wall = time.process_time() - used, time.perf_counter() - began
    await client.close()
    digest = [sum(abs(values[name]) for values in one.records.values()) for name, _, _ in _COLUMNS]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"used": used, "wall": wall, "memory": memory, "records": len(one.records), "digest": digest}


def _memory(seconds: int) -> dict[str, Any]:
    """What the collector alone needs for readings of so many seconds, and the largest memory on the way, in MiB."""
    one, peaks, used = Ours(), list[float](), 0.0
    names = [f"s{place % SENSORS}" for place in range(CHUNK)]
    for first in range(0, seconds * RATE, CHUNK):
        numbers = np.arange(first, first + CHUNK)
        times = MICROSECONDS + 1 + numbers * 1_000_000 // RATE
        values = np.sin(numbers * 0.001).tolist()
        began = time.process_time()
        one.add(Readings(["press-4"] * CHUNK, names, values, times, times, numbers + 1))
        used += time.process_time() - began
        one.records.clear()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {"used": used, "early": peaks[len(peaks) // 10], "late": peaks[-1]}


def _child(*arguments: object) -> dict[str, Any]:
    call = [sys.executable, "-m", "benchmarks.collection", *map(str, arguments)]
    made: dict[str, Any] = json.loads(
        subprocess.run(call, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    return made


def measure(servers: object = None, *, quick: bool = False) -> list[Table]:
    """The tables; the servers of the other programs are not used."""
    from complex_system.local.servers import NatsServer

    count, rounds, seconds = (100_000, 3, 60) if quick else (300_000, 7, 600)
    table = Table(TITLE, NOTE, ["way", "readings/s", "spread", "times bare", "MiB"])
    with tempfile.TemporaryDirectory() as place:
        server = NatsServer(Path(place), port=0)
        server.start()
        try:
            server.wait_ready()
            url = f"nats://127.0.0.1:{server.port}"
            asyncio.run(_fill(url, count))
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way, runs in found.items():
                    runs.append(_child("read", url, way, count))
        finally:
            server.stop()
    ours, bare = found["ours"], found["bare subscriber, polars"]
    for one in (*ours, *bare):
        if one["records"] != count // RATE or not np.allclose(one["digest"], bare[0]["digest"], rtol=1e-9):
            raise SystemExit("the ways make different records")
    ratios = [other["used"] / one["used"] for one, other in zip(ours, bare, strict=True)]
    for way, runs in found.items():
        rates = [count / run["used"] for run in runs]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if way == "ours" else "1"
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        table.rows.append([way, f"{median(rates):,.0f}", spread, ratio, f"{max(run['memory'] for run in runs):.0f}"])
    slowest = min(count / run["used"] for run in ours)
    if slowest < AIM:
        table.missed.append(f"{slowest:,.0f} readings a second of processor time; the aim is {AIM:,}")
    return [table, _over_time(seconds)]


def _over_time(seconds: int) -> Table:
    made = _child("memory", seconds)
    rate = seconds * RATE / made["used"]
    note = "The collector alone, without decoding: readings a second of processor time, and the process's largest memory."
    head = ["readings", "readings/s", "MiB after a tenth", "MiB at the end"]
    row = [f"{seconds * RATE:,}", f"{rate:,.0f}", f"{made['early']:.0f}", f"{made['late']:.0f}"]
    table = Table("Readings at constant memory", note, head, [row])
    if made["late"] > 1.1 * made["early"]:
        table.missed.append(f"memory grew from {made['early']:.0f} to {made['late']:.0f} MiB")
    return table


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["read", url, way, count]:
            print(json.dumps(asyncio.run(_read(url, way, int(count)))))
        case ["memory", seconds]:
            print(json.dumps(_memory(int(seconds))))
        case _:
            for each in measure(quick=quick()):
                print(each.markdown())
                if each.missed:
                    raise SystemExit("\n".join(each.missed))
