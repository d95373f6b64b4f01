"""Raw to processed records: through the broker, and by driver and pipeline in one process. ``python -m benchmarks.processing``."""

from __future__ import annotations

import time
from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from benchmarks.drivers import open_driver
from benchmarks.plant import DATASET, Plant, quick
from benchmarks.run import main
from benchmarks.tables import Table, compared, rounds_of
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.pages import processed_schema
from complex_system.messaging.connection import ServiceConnection
from complex_system.pipeline.pipeline import Pipeline
from complex_system_services.data_processing.data_processing_service import DataProcessingService

NOTE = (
    "{count:,} raw records. Ours: one sweep of the data processing service over the broker, from and to the database service, which "
    "replaces existing records and marks every raw record as done. The driver: {rows} at a time, the same pipeline, `insert` into the "
    "same tables and a mark on every raw record, in one process. A second time without marks: then it could not continue after a stop."
)


def measure(*, quick: bool) -> Iterator[Table]:
    """A table a database."""
    yield _measure("MariaDB", 30_000 if quick else 200_000, 3)
    yield _measure("MongoDB", 20_000 if quick else 50_000, 2)  # the stand-in marks 1,400 records a second


def _measure(database: str, count: int, rounds: int) -> Table:
    with Plant(database, COMPLEX_SYSTEM_PROCESSING_INTERVAL="1000000") as plant:
        driver = open_driver(database, plant.settings)
        pipeline = Pipeline(DATASET)
        rows = plant.settings.processing_batch

        async def opened() -> DataProcessingService:
            connection = await ServiceConnection.open(plant.settings, "data_processing")
            return DataProcessingService(broker_connection=connection, settings=plant.settings)

        service = plant.run(opened())
        records = list(Laboratory(seed=1).records(count))
        for start in range(0, count, plant.settings.batch_size):
            plant.run(plant.database.save_raw(records[start : start + plant.settings.batch_size]))

        def ours() -> float:
            seconds = _timed(lambda: plant.run(service.process_new_records()))
            left = plant.run(plant.database.unprocessed(DATASET.version, 10))
            assert left.table.num_rows == 0, left.table
            return seconds

        def directly(*, mark: bool = True) -> None:
            schema = processed_schema(DATASET)
            for page in driver.raw_pages(rows):
                processed, rejections = pipeline.split(page)
                assert not rejections
                table: pa.Table = processed.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
                driver.save_processed(table)
                if mark:
                    driver.mark(table)

        def _timed(work: object) -> float:
            driver.unmark()
            began = time.perf_counter()
            work()  # type: ignore[operator]
            seconds = time.perf_counter() - began
            assert driver.counts() == (count, count), driver.counts()
            return seconds

        ways = {
            "ours": ours,
            "driver and pipeline": lambda: _timed(directly),
            "the same without marks": lambda: _timed(lambda: directly(mark=False)),
        }
        seconds = rounds_of(ways, rounds, warm_up=False)
        driver.close()
        plant.run(service.broker.close())
    note = NOTE.format(count=count, rows=rows)
    aims = {"driver and pipeline": ">= 0.6 x"}
    return compared(f"Raw to processed, {database}", note, seconds, count=count, unit="records/s", aims=aims)


if __name__ == "__main__":
    main(["processing"], quick=quick())
