"""100 records a request, one client: ours and theirs in turn. ``python -m benchmarks.hundred_records [--quick]``."""

from __future__ import annotations

from benchmarks.load import one_client
from benchmarks.run import main
from benchmarks.servers import Server
from benchmarks.tables import Table, alternate

TITLE = "100 records a request, one client"
NOTE = (
    "Every server on one core, the client on the other. Ours takes raw records and checks them; all others are given "
    "ready-made features, which is their easier task."
)


def measure(servers: list[Server], *, quick: bool = False) -> Table:
    """The table."""
    seconds, rounds = (1.5, 5) if quick else (4.0, 7)
    bodies = {server.name: server.body(100) for server in servers}
    return alternate(servers, rounds, lambda server: one_client(server, bodies[server.name], seconds), TITLE, NOTE)


if __name__ == "__main__":
    main(["hundred_records"])
