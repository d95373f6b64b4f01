"""``python -m complex_system.healthcheck SERVICE``: a container's health check, over NATS.

The exit code is 0 for a service on this host that answers and does not fail, 1 otherwise. The request names the host, so each
container asks its own replica.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys

from complex_system.errors import ComplexSystemError
from complex_system.messaging.clients import SystemClient
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import health_request
from complex_system.settings import Settings
from complex_system.terminal import printable


async def ask_health(service: str, settings: Settings, host: str, seconds: float) -> tuple[bool, str]:
    """Return whether the service on that host is healthy, and its answer.

    Args:
        service: snake_case name.
        settings: Address of the broker.
        host: Host name of the service's process, in a container its id.
        seconds: Longest wait for connection and answer together.
    """
    try:
        async with asyncio.timeout(seconds), await SystemClient.open(settings, f"healthcheck_{service}") as client:
            health = await client.ask(health_request(f"{service}.{host}"), Empty(), seconds)
    except ComplexSystemError as error:
        return False, error.message
    except TimeoutError:
        return False, f"No connection to the broker at {settings.nats_host}:{settings.nats_port} within {seconds:g} s."
    return health.state != "failing", f"{health.state}: {health.detail}" if health.detail else health.state


def main() -> None:
    """Read the command line, print the service's answer, and exit with 0 or 1."""
    parser = argparse.ArgumentParser(
        prog="python -m complex_system.healthcheck", description="Ask a service whether it is healthy."
    )
    parser.add_argument("service", help="name of the service, for example data_processing")
    parser.add_argument(
        "--host", default=socket.gethostname(), help="host name of the service's process; this host by default"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="longest wait in seconds")
    options = parser.parse_args()
    healthy, text = asyncio.run(ask_health(options.service, Settings(), options.host, options.seconds))
    sys.stdout.write(printable(f"{options.service}: {text}\n"))
    raise SystemExit(0 if healthy else 1)


if __name__ == "__main__":
    main()
