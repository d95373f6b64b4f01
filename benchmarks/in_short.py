"""The first screen of ``docs/benchmarks.md``: the common questions, answered with the tables' figures, and every missed aim."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""The tables of each program, as it has left them."""

_MISSED = ", missed"


def in_short(results: Results) -> str:
    """The section as Markdown; a question whose program has not run is left out."""
    lines = [
        "## In short",
        "",
        "`x` is the ratio to the other way of the row.",
        "",
        "| question | answer |",
        "| --- | --- |",
    ]
    lines += [f"| {question} | {answer} |" for question, answer in _answers(results)]
    missed = [
        f"[{table['title']}](#{slug(table['title'])}): {row[0]}: {_measured(table['head'], row)}"
        for tables in results.values()
        for table in tables
        for row in table["rows"]
        if row[-1] == "**no**" or any(cell.endswith(_MISSED) for cell in row)
    ]
    lines += ["", f"**Aims that are missed: {len(missed) or 'none'}**", "", *(f"- {each}" for each in missed)]
    return "\n".join(lines) + "\n"


def _measured(head: Sequence[str], row: Sequence[str]) -> str:
    """What a row that misses its aim has measured, and the aim."""
    at = next(each for each in ("measured", "to MLServer", "without the model", "ours is") if each in head)
    place = len(head) - 1 - head[::-1].index(at)  # the last column of that name has what the aim is about
    return f"{row[place]}, aim {row[head.index('aim')].removesuffix(_MISSED)}"


def slug(title: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _answers(results: Results) -> Iterator[tuple[str, str]]:
    def cell(program: str, title: str, row: str, column: str) -> str:
        for table in results.get(program, ()):
            for cells in table["rows"] if table["title"] == title else ():
                if cells[0] == row:
                    return str(cells[table["head"].index(column)])
        return ""

    def link(text: str, title: str) -> str:
        return f"[{text}](#{slug(title)})"

    def of_drivers(program: str, kind: str, drivers: tuple[str, str]) -> str:
        found = [
            f"{link(database, title)} {ratio}"
            for database, driver in zip(("MariaDB", "MongoDB"), drivers, strict=True)
            if (ratio := cell(program, title := f"{kind}, {database}", driver, "ours is"))
        ]
        return ", ".join(found)

    one = "One record a request, one client"
    starts = [
        f"{link(name, title)} {seconds} s"
        for name in ("mongo", "maria")
        if (seconds := cell("start", title := f"First prediction of {name}", "by the clock", "s"))
    ]
    memory = next((table for table in results.get("memory", ()) if "MariaDB" in table["title"]), None)
    answers = {
        "Speed of saving records over NATS, checked, by that of the driver in one process": of_drivers(
            "ingest", "Ingest", ("the driver alone (mariadb)", "the driver alone (mongodb)")
        ),
        "Speed of reading labelled rows, in the same way": of_drivers(
            "reading", "Reading labelled rows", ("the driver alone", "the driver alone")
        ),
        "Time of a prediction of one record over REST": (
            f"{p50} ms (median), {cell('serving', one, 'mlflow models serve', 'ours is')} the throughput of `mlflow models serve` "
            f"({link('serving', one)})"
            if (p50 := cell("serving", one, "ours", "p50 ms"))
            else ""
        ),
        "Time from an empty folder to the champion's first prediction, with 10,000 records": ", ".join(starts),
        "Memory of all services after trainings on 10,000 records, and on 1,000,000": (
            " and ".join(f"{sum(int(row[at]) for row in memory['rows']):,}" for at in (2, 4))
            + f" MB, the sum of the peaks ({link('memory', memory['title'])})"
            if memory
            else ""
        ),
        "Error of the champion by that of scikit-learn's histogram boosting, ten public tables": (
            f"{ratio} x ({link('quality', 'Ten public tables')})"
            if (ratio := cell("quality", "Ten public tables", "**all**", "champion"))
            else ""
        ),
        "True values within the champion's 90 % intervals": (
            f"{share} ({link('intervals', '90 % intervals on the same folds')})"
            if (share := cell("quality", "90 % intervals on the same folds", "**mean of all folds**", "champion"))
            else ""
        ),
        "False alarms of drift in 40 runs of 20,000 records of a slow sensor (AR(1), rho 0.99)": (
            f"{alarms} ({link('drift', 'Drift')})" if (alarms := _false_alarms(results)) else ""
        ),
        "Processor time of a record at ten million by that at the first": _late(results),
    }
    yield from ((question, answer) for question, answer in answers.items() if answer)


def _false_alarms(results: Results) -> str:
    rows = (row for table in results.get("validity.drift", ()) if table["title"] == "Drift" for row in table["rows"])
    return next((str(row[1]) for row in rows if row[0].startswith("AR(1), rho 0.99: false alarms")), "")


def _late(results: Results) -> str:
    rows = [row for table in results.get("scale", ()) for row in table["rows"]]
    found = [float(cell.removesuffix(" x")) for row in rows[-10:] for cell in row if cell.endswith(" x")]
    return f"{median(found):.2f} x, the median of the last ten parts ([scale](scale.md))" if found else ""
