"""Runs the programs and writes ``docs/benchmarks.md``: ``python -m benchmarks.run [--quick] [program ...]``.

Each program runs in a process of its own and leaves its tables in ``docs/benchmarks/``; the page is written from all that is
there, so one row can be measured anew.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.in_short import in_short, slug
from benchmarks.tables import Bar, Table
from benchmarks.validity import SECTIONS

PROGRAMS = {
    "ingest": "Data plane",
    "reading": "Data plane",
    "processing": "Data plane",
    "processor_time": "Data plane",
    "ingest_stream": "Data plane",
    "collection": "Data plane",
    "request_reply": "Data plane",
    "pipeline": "Data plane",
    "trainers": "Data plane",
    "cluster": "Data plane",
    "trials": "Data plane",
    "memory": "Data plane",
    "start": "Start",
    "serving": "Serving",
    "bulk": "Serving",
    "inference": "Serving",
    "explain": "Serving",
    **{f"validity.{section}": "Validity" for section in SECTIONS},
    "quality": "Quality of the models",
    "intervals": "Quality of the models",
}
"""The programs with the part of the page that they belong to, in its order."""
ALONE = {"scale": "Scale", "full_round": "Scale", "replicas": "Scale"}
"""Programs that run by themselves, because they take an hour or need root; their option ``--keep`` leaves tables for the page."""
_PARTS = {**PROGRAMS, **ALONE}
DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "benchmarks"
PICTURES = DOCS / "images" / "benchmarks"
PACKAGES = (
    "mariadb", "pymongo", "nats-py", "polars", "pyarrow", "msgspec", "lightgbm", "torch", "tensorflow", "onnxruntime", "mlflow",
)  # fmt: skip


def main(programs: list[str], *, quick: bool, keep: bool = False) -> None:
    """Runs programs in this process and prints their tables; ``keep`` leaves them for the page.

    Raises:
        SystemExit: A table has an aim that is missed; all has been measured.
    """
    missed: list[str] = []
    for name in programs:
        began = time.monotonic()
        measured = importlib.import_module(f"benchmarks.{name}").measure(quick=quick)
        tables: list[Table] = []
        for table in [measured] if isinstance(measured, Table) else measured:
            print(table.markdown(), flush=True)
            tables.append(table)
            missed += table.missed
            if keep:  # each as it comes: what follows may fail
                keep_tables(name, tables, quick=quick)
        print(f"{name}: {time.monotonic() - began:.0f} s\n", flush=True)
    if missed:
        raise SystemExit("\n".join(["missed:", *missed]))


def keep_tables(name: str, tables: list[Table], *, quick: bool) -> None:
    """Keeps a program's tables for the page."""
    RESULTS.mkdir(exist_ok=True)
    result = {"tables": [asdict(each) for each in tables], "quick": quick, **_circumstances()}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def run_all(programs: list[str], *, quick: bool) -> None:
    """Runs each program in a process of its own, and writes the page.

    Raises:
        SystemExit: A program computed something wrong or could not run; the others have been measured all the same.
    """
    failed = []
    for name in programs:
        call = f"from benchmarks.run import main; main([{name!r}], quick={quick}, keep=True)"
        if subprocess.run([sys.executable, "-c", call], check=False).returncode:
            failed.append(name)
    write_page()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def write_page() -> None:
    """Writes the page and its pictures from the results that are there."""
    results = {name: path for name in _PARTS if (path := RESULTS / f"{name}.json").exists()}
    parts: dict[str, list[str]] = {}
    for name, path in results.items():
        result = json.loads(path.read_text(encoding="utf-8"))
        made = parts.setdefault(_PARTS[name], [])
        notes: dict[str, str] = {}
        for content in result["tables"]:
            table = Table(**{**content, "bars": [Bar(**bar) for bar in content["bars"]]})
            if first := notes.get(table.note):
                table.note = f"Measured as [{first}](#{slug(first)})."
            elif table.note:
                notes[table.note] = table.title
            made.append(_folded(table))
            if table.bars:
                picture = plots.draw(table, PICTURES)
                made.append(f"![{table.title}: {table.unit}](images/benchmarks/{picture.name})\n")
        made.append(_measured(name, result))
    body = "\n".join(f"## {part}\n\n" + "\n".join(made) for part, made in parts.items())
    read = {name: json.loads(path.read_text(encoding="utf-8"))["tables"] for name, path in results.items()}
    (DOCS / "benchmarks.md").write_text("\n".join([_HEAD, in_short(read), body]), encoding="utf-8")


def _folded(table: Table) -> str:
    """A table, behind a line to click on where it has many rows."""
    text = table.markdown()
    if len(table.rows) <= _MANY_ROWS:
        return text
    head, rows = text.split("\n\n| ", maxsplit=1)
    return f"{head}\n\n<details><summary>All {len(table.rows)} rows</summary>\n\n| {rows}\n</details>\n"


_HEAD = """# Benchmarks

Written by `make bench`; do not edit. `make bench QUICK=1` takes smaller sizes, `make bench ARGS="ingest reading"` some rows only;
`make scale` and `make replicas` write the [last part](scale.md).
Figures are medians of rounds in which every way had its turn, with the least and the most beside them; on a machine that does
other work too, read the ratios. No time is asserted; a program fails when what it computes is wrong. Validity is measured on
records whose answer is known, with fixed seeds; a figure that misses its aim is marked, and its program fails.
"""

_MANY_ROWS = 36
_BUSY = 5.0
"""Load of the last 15 minutes that a program with its servers does not make alone."""


def _circumstances() -> dict[str, Any]:
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load": [round(value, 1) for value in os.getloadavg()],
        "versions": {name: version(name) for name in PACKAGES},
    }


def _measured(name: str, result: dict[str, Any]) -> str:
    packages = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    load = ", ".join(str(value) for value in result["load"])
    short = "; a short run" if result["quick"] else ""
    beside = ", beside other work" if result["load"][-1] > _BUSY else ""
    program = name.replace(".", "/") + ("" if name == "quality" else ".py")
    return (
        f"*`benchmarks/{program}`, {result['date']}, {result['machine']}; load of the machine at the end {load}{beside}{short}.* "
        f"<details><summary>Versions</summary>{packages}</details>\n"
    )


if __name__ == "__main__":
    from benchmarks.plant import command_line

    parser = command_line()
    parser.epilog = "\n".join(
        [
            f"programs: {', '.join(PROGRAMS)}",
            f"by themselves: {', '.join(f'python -m benchmarks.{each} --keep' for each in ALONE)}",
        ]
    )
    parser.add_argument(
        "programs", nargs="*", metavar="program", help="those to run, validity for all of its sections; all unless given"
    )
    given = parser.parse_args()
    chosen = set(given.programs)
    if unknown := sorted(chosen - {name for each in PROGRAMS for name in (each, each.partition(".")[0])}):
        parser.error(f"no such program: {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    run_all([each for each in PROGRAMS if not chosen or chosen & {each, each.partition(".")[0]}], quick=given.quick)
