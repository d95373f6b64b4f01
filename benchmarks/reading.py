"""Reading the labelled rows into arrays: through service and broker, and by the driver. ``python -m benchmarks.reading``."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.drivers import WANTED, fill_processed, open_driver, synthetic_processed
from benchmarks.plant import DATASET, Plant, quick
from benchmarks.run import main
from benchmarks.tables import Table, compared, rounds_of

NOTE = (
    "{count:,} labelled rows of {columns} columns. Ours: database, service, broker, arrays (float64, one a column), page by page. "
    "The driver: {how}, in one process."
)
HOW = {"MariaDB": "`cursor(binary=True)`, `fetchall`, a pandas frame", "MongoDB": "`find` in large batches, a pandas frame"}


def measure(*, quick: bool) -> Iterator[Table]:
    """A table a database."""
    yield _measure("MariaDB", 50_000 if quick else 200_000, 5)
    yield _measure("MongoDB", 10_000 if quick else 200_000, 3)


def _measure(database: str, count: int, rounds: int) -> Table:
    with Plant(database) as plant:
        driver = open_driver(database, plant.settings)
        fill_processed(driver, synthetic_processed(count))
        columns = list(WANTED)

        async def read() -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
            arrays = [np.empty(count) for _ in columns]
            filled = 0
            async for page in plant.database.processed_pages(columns, labelled=True, version=DATASET.version):
                rows = page.table.num_rows
                for array, column in zip(arrays, page.table.columns, strict=True):
                    array[filled : filled + rows] = column.to_numpy()
                filled += rows
            assert filled == count, filled
            return arrays

        sums: dict[str, list[float]] = {}

        def ours() -> float:
            began = time.perf_counter()
            arrays = plant.run(read())
            seconds = time.perf_counter() - began
            sums["ours"] = [float(array.sum()) for array in arrays]
            return seconds

        def direct() -> float:
            began = time.perf_counter()
            frame = driver.read_labelled()
            seconds = time.perf_counter() - began
            sums["driver"] = [float(frame[name].to_numpy().sum()) for name in columns]
            return seconds

        seconds = rounds_of({"ours": ours, "the driver alone": direct}, rounds)
        assert np.allclose(sums["ours"], sums["driver"], rtol=1e-12), "ours and the driver read other values"
        driver.close()
    note = NOTE.format(count=count, columns=len(columns), how=HOW[database])
    return compared(
        f"Reading labelled rows, {database}",
        note,
        seconds,
        count=count,
        unit="rows/s",
        aims={"the driver alone": ">= 0.7 x"},
    )


if __name__ == "__main__":
    main(["reading"], quick=quick())
