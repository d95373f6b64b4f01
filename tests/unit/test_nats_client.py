"""The private attributes of nats-py that ``messaging.nats_client`` uses are still there and mean what it assumes."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from complex_system.messaging.nats_client import next_message


@pytest.mark.parametrize(
    "name",
    ["_resp_map", "_status", "_ps", "_transport", "_server_info", "_reconnection_task", "_reading_task", "_ping_interval_task",
     "_flusher_task"],
)  # fmt: skip
def test_a_client_has_the_attributes(name: str) -> None:
    assert hasattr(Client(), name)


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (Client, "_close", ["self", "status", "do_cbs"]),
        (Client, "_attempt_reconnect", ["self"]),
        (Client, "_connect_to_server", ["self", "s"]),
        (Client, "_process_info", ["self", "info", "initial_connection"]),
        (Client, "_connect_command", ["self"]),
        (TcpTransport, "wait_closed", ["self"]),
    ],
)
def test_the_overridden_methods_have_the_same_parameters(owner: type[Any], name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_a_transport_keeps_its_writer() -> None:
    assert TcpTransport()._io_writer is None


async def test_a_taken_message_no_longer_counts_as_waiting() -> None:
    subscription = Subscription(Client(), id=1, subject="a")
    message = Msg(Client(), subject="a", data=b"12345")
    subscription._pending_size = len(message.data)
    subscription._pending_queue.put_nowait(message)
    assert await next_message(subscription) is message
    assert subscription.pending_bytes == 0
    async with asyncio.timeout(1):
        await subscription._pending_queue.join()
