"""Where the time of the data plane goes: processor time by process, ours and the driver. ``python -m benchmarks.processor_time``.

Clocks differ by other work on the machine; processor time hardly does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import psutil

from benchmarks.drivers import WANTED, Driver, fill_processed, open_driver, synthetic_processed
from benchmarks.load import Run
from benchmarks.plant import DATASET, Plant, quick
from benchmarks.run import main
from benchmarks.servers import Server, started
from benchmarks.serving import CASES
from benchmarks.tables import Table, rounds_of
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import processed_schema
from complex_system.messaging.connection import ServiceConnection
from complex_system.pipeline.pipeline import Pipeline
from complex_system_services.data_processing.data_processing_service import DataProcessingService

NOTE = (
    "Processor time in milliseconds for 1,000 records, by process: median of the rounds' sums, and the medians of the "
    "parts. On a machine with two cores ours has client, service and database at work at the same time; the driver waits "
    "for its database. {more}"
)
INGEST = (
    "Batches of 500. Of the service's time for 1,000 records on MariaDB, 3.3 ms make columns and hashes of the records, 2.5 ms "
    "write them as the statement's literals, and about as much sends it; the rest are broker, decoding, the check of the records, "
    "the event loop and its threads. The server has more to do than with the driver's rows: conflicts are looked for, and hash, "
    "source and order of each record are kept. Measured once beside it, process and server together, when the literals still "
    "took 10 ms: our statement 29 ms, the driver's `executemany` of the same rows with the same conflicts 31 ms, `LOAD DATA "
    "LOCAL` into a staging table and an `INSERT ... SELECT` from there 44 ms, which is not used, nor allowed by the server."
)
READING = (
    "16 columns. The floor of the service is the driver's fetch: of a page's time on MariaDB, 48 % are that, the rest makes "
    "columns of rows and Arrow arrays of Python's numbers. Rows are fetched 500 at a time: 0.9 ms for 1,000, where all 4,000 at "
    "once take 1.38 ms, for the garbage collector and for memory. The driver's best way is a server-side cursor, read in parts "
    "into arrays. Measured once beside it, all of a page in one process: text instead of the binary protocol takes 6 times as "
    "long, mostly in the server; `arrow-odbc` over MariaDB's ODBC driver takes 0.73 of our time, and would be a second driver "
    "with its own connections, time-outs and errors; `connectorx`, which decodes MariaDB's rows in Rust, takes 0.4 of the "
    "driver's time, but makes a connection of its own for every query (each page is one) and takes no parameters. For a quarter "
    "of one service's time no second driver is used. There is no ADBC driver for MariaDB on PyPI. polars, NumPy and one matrix a "
    "part are not faster than Arrow's own arrays of Python's numbers. `pymongoarrow` takes as long as `find`."
)
PROCESSING = (
    "The driver marks every raw record as done, so that it could continue after a stop. Ours replaces existing records and "
    "checks revisions. `data_processing` is this process here, and so is the driver with its pipeline."
)
SERVING = (
    "Processor time of the server in microseconds a request; the same servers and requests as under Serving. Bare ASGI "
    "gets ready-made features and checks nothing. Of ours with one record, two thirds are HTTP and the event loop, which "
    "bare ASGI has, too. Of the other third 26 % are the model, 18 % the response, 16 % check and features, 10 % routing, 6 % "
    "the request's id, 5 % decoding; the rest are many small things: key, limits, counters, what was asked for beside the "
    "predictions. `python -m benchmarks.request_path -v` lists every call. Other work on the machine makes the ratio worse, "
    "for ours has more code and data that must come back into the processor's caches: compare code in one run only."
)
Parts = Mapping[str, float]
Client = Callable[[Server, bytes, float], Run]


class _Clock:
    """Processor time of this process and of the plant's."""

    def __init__(self) -> None:
        self._names = {child.pid: _name(child) for child in psutil.Process().children(recursive=True)}

    def read(self) -> dict[str, float]:
        """Return seconds by process; threads that have ended are not in them."""
        found = {"this process": time.process_time()}
        for pid, name in self._names.items():
            found[name] = found.get(name, 0.0) + _seconds(pid)
        return found

    def of(self, work: Callable[[], object]) -> Parts:
        """Return what some work takes."""
        before = self.read()
        work()
        return {name: seconds - before[name] for name, seconds in self.read().items()}


def _seconds(pid: int) -> float:
    """Return the processor time of a process's threads, of those that live."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def _name(process: psutil.Process) -> str:
    words = process.cmdline()
    service = next((word.split(".")[1] for word in words if word.startswith("complex_system_services.")), "")
    known = {"nats-server": "NATS", "mariadbd": "MariaDB", "secantusd-py": "MongoDB's stand-in", "mongod": "MongoDB"}
    return service or next(
        (name for word in words for program, name in known.items() if Path(word).name == program), words[0]
    )


def measure(*, quick: bool) -> Iterator[Table]:
    """A table a task and a database, and one of serving."""
    yield _serving(7 if quick else 15)
    for database, count, rounds in (
        ("MariaDB", 20_000 if quick else 100_000, 5),
        ("MongoDB", 4_000 if quick else 20_000, 3),
    ):
        yield _ingest(database, count, rounds)
        yield _processing(database, count, rounds)
        yield _reading(database, count, rounds)


def _ingest(database: str, count: int, rounds: int) -> Table:
    records = list(Laboratory(seed=1).records(count))
    with Plant(database) as plant:
        driver, clock = open_driver(database, plant.settings), _Clock()
        batches = [records[start : start + 500] for start in range(0, count, 500)]

        def ours() -> None:
            for batch in batches:
                assert plant.run(plant.database.save_raw(batch)).inserted == len(batch)

        def direct() -> None:
            for batch in batches:
                driver.save_raw(batch)

        def emptied(work: Callable[[], None]) -> Callable[[], Parts]:
            def timed() -> Parts:
                driver.clear()
                return clock.of(work)

            return timed

        found = rounds_of({"ours": emptied(ours), "the driver": emptied(direct)}, rounds)
        driver.close()
    return _table(f"Processor time of ingest, {database}", INGEST, found, count)


def _processing(database: str, count: int, rounds: int) -> Table:
    with Plant(database, COMPLEX_SYSTEM_PROCESSING_INTERVAL="1000000") as plant:
        driver, clock, pipeline = open_driver(database, plant.settings), _Clock(), Pipeline(DATASET)

        async def opened() -> DataProcessingService:
            connection = await ServiceConnection.open(plant.settings, "data_processing")
            return DataProcessingService(broker_connection=connection, settings=plant.settings)

        service = plant.run(opened())
        records = list(Laboratory(seed=1).records(count))
        for start in range(0, count, 500):
            plant.run(plant.database.save_raw(records[start : start + 500]))

        def direct() -> None:
            for page in driver.raw_pages(plant.settings.processing_batch):
                processed, _ = pipeline.split(page)
                table = processed.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(processed_schema(DATASET))
                driver.save_processed(table)
                driver.mark(table)

        def anew(work: Callable[[], object]) -> Callable[[], Parts]:
            def timed() -> Parts:
                driver.unmark()
                parts = clock.of(work)
                assert driver.counts() == (count, count), driver.counts()
                return parts

            return timed

        ways = {"ours": anew(lambda: plant.run(service.process_new_records())), "driver and pipeline": anew(direct)}
        found = rounds_of(ways, rounds, warm_up=False)
        driver.close()
        plant.run(service.broker.close())
    return _table(f"Processor time from raw to processed, {database}", PROCESSING, found, count)


def _reading(database: str, count: int, rounds: int) -> Table:
    with Plant(database) as plant:
        driver, clock = open_driver(database, plant.settings), _Clock()
        fill_processed(driver, synthetic_processed(count))

        async def read() -> None:
            arrays = [np.empty(count) for _ in WANTED]
            filled = 0
            async for page in plant.database.processed_pages(list(WANTED), labelled=True, version=DATASET.version):
                for array, column in zip(arrays, page.table.columns, strict=True):
                    array[filled : filled + len(column)] = column.to_numpy()
                filled += page.table.num_rows
            assert filled == count, filled

        ways = {
            "ours": lambda: clock.of(lambda: plant.run(read())),
            "the driver, a frame": lambda: clock.of(driver.read_labelled),
            **_best(driver, clock, count),
        }
        found = rounds_of(ways, rounds)
        driver.close()
    return _table(f"Processor time of reading, {database}", READING, found, count)


def _best(driver: Driver, clock: _Clock, count: int) -> dict[str, Callable[[], Parts]]:
    """Return the driver's fastest way, where it is another one than into a frame."""

    def arrays() -> None:
        assert len(driver.read_arrays()) == count

    return {"the driver, server-side cursor, arrays": lambda: clock.of(arrays)} if driver.reads_arrays else {}


def _serving(rounds: int) -> Table:
    with started(("ours", "bare ASGI")) as (servers, _):
        table = Table("Processor time of serving", SERVING, ["request", "ours", "spread", "bare ASGI", "spread", "ours is"])
        for title, (records, client) in CASES.items():

            def way(server: Server, count: int = records, ask: Client = client) -> Callable[[], float]:
                body = server.body(count)

                def timed() -> float:
                    before = _seconds(server.pid)
                    run = ask(server, body, 0.5)
                    return (_seconds(server.pid) - before) / run.count * 1e6

                return timed

            found = rounds_of({server.name: way(server) for server in servers}, rounds)
            cells = [(f"{median(each):.0f}", f"{min(each):.0f} to {max(each):.0f}") for each in found.values()]
            ratios = [own / other for own, other in zip(*found.values(), strict=True)]
            ratio = f"{median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"
            table.rows.append([title, *cells[0], *cells[1], ratio])
    return table


def _table(title: str, more: str, found: Mapping[str, list[Parts]], count: int) -> Table:
    names = [
        name for name in next(iter(found.values()))[0] if any(each[name] > 0.0 for way in found.values() for each in way)
    ]
    table = Table(title, NOTE.format(more=more), ["way", "all", "spread", *names, "ours is"], unit="ms")
    sums = {way: [sum(each.values()) / count * 1e6 for each in rounds] for way, rounds in found.items()}
    for way, rounds in found.items():
        parts = [f"{median(each[name] for each in rounds) / count * 1e6:.2f}" for name in names]
        ratios = [own / other for own, other in zip(sums["ours"], sums[way], strict=True)]
        ratio = "" if way == "ours" else f"{median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"
        all_of = sums[way]
        table.rows.append([way, f"{median(all_of):.2f}", f"{min(all_of):.2f} to {max(all_of):.2f}", *parts, ratio])
    return table


if __name__ == "__main__":
    main(["processor_time"], quick=quick())
