"""A table: every server in turn, round after round, so that what else the machine does falls on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from benchmarks.load import Run
from benchmarks.servers import Server


@dataclass
class Table:
    """What one program measured.

    Attributes:
        note: What is needed to read the figures.
    """

    title: str
    note: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """It as Markdown."""
        lines = [f"## {self.title}", "", self.note, "", "| " + " | ".join(self.head) + " |", "|" + " --- |" * len(self.head)]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in self.rows)]) + "\n"


def alternate(
    servers: list[Server], rounds: int, measure: Callable[[Server], Run], title: str, note: str, ours: str = "ours"
) -> Table:
    """Measures every server once a round; median, spread (least to most) and how many times as fast ours is."""
    runs: dict[str, list[Run]] = {server.name: [] for server in servers}
    for number in range(rounds + 1):
        for server in servers:
            run = measure(server)
            if number:  # the first round warms up
                runs[server.name].append(run)
    table = Table(title, note, ["server", "requests/s", "spread", "p50 ms", "p99 ms", "ours is"])
    own = median(run.rate for run in runs[ours])
    for name, found in runs.items():
        rates = [run.rate for run in found]
        table.rows.append(
            [
                name,
                f"{median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                f"{median(run.p50 for run in found):.2f}",
                f"{median(run.p99 for run in found):.2f}",
                f"{own / median(rates):.2f} x",
            ]
        )
    return table
