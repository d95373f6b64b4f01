"""A device that speaks MQTT: paho with a session of its own, which repeats what was not acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

HOST = "127.0.0.1"


class MqttDevice:
    """Publishes, and knows what the broker has acknowledged.

    Attributes:
        acknowledged: Numbers that :meth:`publish` gave to messages with a PUBACK.
        connections: Times that the broker accepted a connection.
    """

    def __init__(self, port: int, user: str = "", password: str = "", *, inflight: int = 100) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=user or "device", clean_session=False)
        if user:
            self._client.username_pw_set(user, password)
        self._client.max_inflight_messages_set(inflight)
        self._client.max_queued_messages_set(0)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_publish = lambda _client, _data, mid, *_: self._done.append(mid)
        self._client.on_connect = lambda *_: self._connected()
        self._client.on_subscribe = lambda _client, _data, _mid, reasons, _properties: self.subscribed.extend(reasons)
        self._port = port
        self._done: list[int] = []  # paho calls while it holds its locks: nothing is looked up there
        self._sent: dict[int, int] = {}
        self._count = 0
        self.acknowledged: set[int] = set()
        self.connections = 0
        self.subscribed: list[object] = []
        self.is_connected = threading.Event()

    def _connected(self) -> None:
        self.connections += 1
        self.is_connected.set()

    def publish(self, topic: str, payload: bytes | str, quality: int = 1) -> int:
        """Publish without waiting; return the number of the message."""
        self._count += 1
        self._sent[self._client.publish(topic, payload, qos=quality).mid] = self._count
        return self._count

    def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, 1)

    @property
    def waiting(self) -> int:
        """Messages without an acknowledgement."""
        while self._done and (number := self._sent.pop(self._done[0], 0)):
            self._done.pop(0)
            self.acknowledged.add(number)
        return len(self._sent)

    def settle(self, seconds: float = 30.0) -> None:
        """Wait until everything is acknowledged."""
        deadline = time.monotonic() + seconds
        while self.waiting:
            assert time.monotonic() < deadline, f"{self.waiting} messages are not acknowledged"
            time.sleep(0.01)

    def start(self) -> None:
        self._client.connect(HOST, self._port)
        self._client.loop_start()
        assert self.is_connected.wait(60)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def mqtt_device(port: int, user: str = "", password: str = "", *, inflight: int = 100) -> Iterator[MqttDevice]:
    """Connects a device until the block ends."""
    device = MqttDevice(port, user, password, inflight=inflight)
    device.start()
    try:
        yield device
    finally:
        device.stop()
