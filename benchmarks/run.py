"""Runs the programs and writes ``docs/benchmarks.md``: ``python -m benchmarks.run [--quick] [program ...]``."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import servers as started_servers
from benchmarks.model import train
from benchmarks.tables import Table

PROGRAMS = ["one_record", "sixteen_clients", "hundred_records", "bulk", "ingest_stream"]
SERVERS = ["ours", "ours, V2", "bare ASGI", "mlflow models serve", "MLServer"]
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main(programs: list[str], *, page: Path | None = None) -> None:
    """Starts the servers once, runs the programs, prints their tables, and writes them if a page is named."""
    quick = "--quick" in sys.argv
    tables: list[Table] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        train(folder)
        with started_servers.running(folder, SERVERS) as servers:
            # The client keeps away from the core that the servers share.
            others = os.sched_getaffinity(0) - {started_servers.CORE}
            if others:
                os.sched_setaffinity(0, others)
            for name in programs:
                began = time.monotonic()
                program = importlib.import_module(f"benchmarks.{name}")
                options = {"folder": folder} if name == "bulk" else {}
                table = program.measure(servers, quick=quick, **options)
                tables.append(table)
                print(table.markdown(), f"({time.monotonic() - began:.0f} s)\n", flush=True)
    if page is not None:
        page.write_text(_head(quick) + "\n" + "\n".join(table.markdown() for table in tables), encoding="utf-8")


def _head(quick: bool) -> str:
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("onnxruntime", "polars", "msgspec", "uvicorn", "lightgbm", "mlflow")
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"""# Benchmarks

Written by `make bench`; do not edit. Figures are medians of rounds in which every server had its turn, with the least and the
most beside them; on a machine that does other work too, read the ratios. The model is the same LightGBM model everywhere: ours
serves its ONNX twin with raw records in and the pipeline before it, the others take ready-made features.

{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}.
Load of the machine at the end {load}{"; a short run" if quick else ""}.
"""


if __name__ == "__main__":
    main([each for each in sys.argv[1:] if not each.startswith("-")] or PROGRAMS, page=PAGE)
