"""Memory of the data plane's services at few and at many records. ``python -m benchmarks.memory``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.plant import Plant, quick
from benchmarks.run import main
from benchmarks.tables import Bar, Table

SERVICES = ("dummy_data_generation", "data_processing")
NOTE = (
    "Resident memory in MB of each service as a process, {database}: the source makes and sends the records, the database service "
    "writes them, data processing processes them while they come, and all labelled pages are read once. `peak` is the most that a "
    "process ever had by then (`VmHWM`)."
)


def measure(*, quick: bool) -> Iterator[Table]:
    """A table a database."""
    yield _measure("MariaDB", 10_000, 50_000 if quick else 1_000_000)
    yield _measure("MongoDB", 10_000, 50_000 if quick else 1_000_000)


def _measure(database: str, few: int, many: int) -> Table:
    found = {count: _memory(database, count) for count in (few, many)}
    table = Table(f"Memory, {database}", NOTE.format(database=database), ["service"], unit="peak MB")
    table.head += [f"{what} at {count:,}" for count in (few, many) for what in ("resident", "peak")] + ["growth of the peak"]
    for service in found[few]:
        row = [service]
        for count in (few, many):
            resident, peak = found[count][service]
            row += [f"{resident:.0f}", f"{peak:.0f}"]
            table.bars.append(Bar(f"{service}, {count:,}", peak, peak, peak))
        table.rows.append([*row, f"{found[many][service][1] - found[few][service][1]:+.0f}"])
    return table


def _memory(database: str, count: int) -> dict[str, tuple[float, float]]:
    """Resident memory and its peak in MB, by service, when so many records are there and processed."""
    variables = {
        "COMPLEX_SYSTEM_RECORDS": str(count),
        "COMPLEX_SYSTEM_LIVE_RATE": "0",
        "COMPLEX_SYSTEM_PROCESSING_INTERVAL": "0.2",
    }
    with Plant(database, SERVICES, **variables) as plant:

        async def labelled() -> int:
            return sum([page.table.num_rows async for page in plant.database.processed_pages(labelled=True)])

        # The growth is awaited, not a time: a slow machine takes longer.
        seen, changed = {}, time.monotonic()
        while (counts := plant.run(plant.database.counts()))["processed"] < count:
            if counts != seen:
                seen, changed = counts, time.monotonic()
            if time.monotonic() - changed > 120:
                raise SystemExit(f"nothing happens at {counts}:\n" + "\n".join(c.tail(5) for c in plant.children.values()))
            time.sleep(1)
        counts = plant.run(plant.database.counts())
        assert (counts["raw"], counts["processed"], counts["rejected"]) == (count, count, 0), counts
        rows = plant.run(labelled())
        assert 0.45 * count < rows < 0.55 * count, rows
        return {name: _of_process(child.pid) for name, child in plant.children.items()}


def _of_process(pid: int | None) -> tuple[float, float]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident, peak = (int(status[name].split()[0]) / 1000 for name in ("VmRSS", "VmHWM"))
    return resident, peak


if __name__ == "__main__":
    main(["memory"], quick=quick())
