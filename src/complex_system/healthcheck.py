"""``python -m complex_system.healthcheck SERVICE``: asks a service on this host how it is, over the broker; the exit code tells.

A container's health check: 0 for a service that answers and does not fail, 1 otherwise. The service is asked under the host's name, so
among replicas each container hears of its own.
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


async def ask_health(service: str, settings: Settings, host: str, seconds: float) -> tuple[bool, str]:
    """Whether the service on that host is well, and what it says.

    Args:
        service: snake_case name.
        settings: Where the broker is.
        host: Host name of the service's process, in a container its id.
        seconds: Longest wait, for connection and answer together.
    """
    try:
        async with asyncio.timeout(seconds), await SystemClient.open(settings, f"healthcheck_{service}") as client:
            health = await client.ask(health_request(f"{service}.{host}"), Empty(), seconds)
    except ComplexSystemError as error:
        return False, error.message
    except TimeoutError:
        return False, f"The broker at {settings.nats_host}:{settings.nats_port} was not reached within {seconds:g} s."
    return health.state != "failing", f"{health.state}: {health.detail}" if health.detail else health.state


def main() -> None:
    """Reads the command line, says what the service says, and exits with 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m complex_system.healthcheck", description="Ask a service how it is.")
    parser.add_argument("service", help="snake_case name, for instance data_processing")
    parser.add_argument("--host", default=socket.gethostname(), help="host of the service's process; this one by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="longest wait")
    options = parser.parse_args()
    well, text = asyncio.run(ask_health(options.service, Settings(), options.host, options.seconds))
    sys.stdout.write(f"{options.service}: {text}\n")
    raise SystemExit(0 if well else 1)


if __name__ == "__main__":
    main()
