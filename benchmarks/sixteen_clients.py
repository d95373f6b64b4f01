"""One record a request, 16 clients: ours and theirs in turn. ``python -m benchmarks.sixteen_clients [--quick]``."""

from __future__ import annotations

from benchmarks.load import many_clients
from benchmarks.run import main
from benchmarks.servers import Server
from benchmarks.tables import Table, alternate

TITLE = "One record a request, 16 clients"
NOTE = (
    "Every server on one core, the client on the other. Ours takes raw records and checks them; all others are given "
    "ready-made features, which is their easier task."
)


def measure(servers: list[Server], *, quick: bool = False) -> Table:
    """The table."""
    seconds, rounds = (1.5, 5) if quick else (4.0, 7)
    bodies = {server.name: server.body(1) for server in servers}
    return alternate(servers, rounds, lambda server: many_clients(server, bodies[server.name], seconds, 16), TITLE, NOTE)


if __name__ == "__main__":
    main(["sixteen_clients"])
