"""Serving beside other servers: one record, 16 clients, 100 records. ``python -m benchmarks.serving``."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from benchmarks.load import Run, many_clients, one_client
from benchmarks.plant import quick
from benchmarks.run import main
from benchmarks.servers import Server, started
from benchmarks.tables import Bar, Table, rounds_of

NOTE = (
    "Every server on one core, the client on the other. Ours takes raw records and checks them; all others are given "
    "ready-made features, which is their easier task. The model is the same LightGBM model everywhere: ours serves its ONNX model."
)
CASES: dict[str, tuple[int, Callable[[Server, bytes, float], Run]]] = {
    "One record a request, one client": (1, one_client),
    "One record a request, 16 clients": (1, lambda server, body, seconds: many_clients(server, body, seconds, 16)),
    "100 records a request, one client": (100, one_client),
}
"""Title of the table, records a request, and the client."""


def measure(*, quick: bool) -> list[Table]:
    """A table a case."""
    with started() as (servers, _):
        return [_measure(title, servers, *case, quick=quick) for title, case in CASES.items()]


def _measure(
    title: str, servers: list[Server], records: int, client: Callable[[Server, bytes, float], Run], *, quick: bool
) -> Table:
    seconds, rounds = (1.5, 5) if quick else (4.0, 7)
    bodies = {server.name: server.body(records) for server in servers}

    def way(server: Server) -> Callable[[], Run]:
        return lambda: client(server, bodies[server.name], seconds)

    runs = rounds_of({server.name: way(server) for server in servers}, rounds)
    table = Table(title, NOTE, ["server", "requests/s", "spread", "p50 ms", "p99 ms", "ours is"], unit="requests/s")
    own = median(run.rate for run in runs["ours"])
    for name, found in runs.items():
        bar = Bar.of(name, [run.rate for run in found])
        table.bars.append(bar)
        p50, p99 = (median(getattr(run, at) for run in found) for at in ("p50", "p99"))
        spread = f"{bar.least:,.0f} to {bar.most:,.0f}"
        table.rows.append([name, f"{bar.value:,.0f}", spread, f"{p50:.2f}", f"{p99:.2f}", f"{own / bar.value:.2f} x"])
    return table


if __name__ == "__main__":
    main(["serving"], quick=quick())
