"""The process of the simulated plant: an OPC UA server with the press, and devices and a laboratory that publish over MQTT.

``python -m complex_system.local.plant.simulator`` takes ports and users from its environment, see ``local.servers.plant``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from asyncua import ua
from asyncua.client.client import Client
from asyncua.server.server import Server
from asyncua.ua.status_codes import StatusCodes
from paho.mqtt.client import Client as MqttClient
from paho.mqtt.enums import CallbackAPIVersion

from complex_system.local.plant.press import BY_MQTT, PRESS, UNITS, Press

log = logging.getLogger(__name__)

NAMESPACE = "urn:complex-system:plant"
PART_SECONDS = 0.5
"""How long the press takes for a part in the scenario."""
READINGS_IN_PART = 5
"""Readings of each sensor of the press while it makes a part."""
DEVICE_PARTS = 2
"""Parts between two readings of a device."""
LAB_SECONDS = (5.0, 20.0)
"""How long after a part the laboratory's value comes."""
STOPPED = "Simulator.Stopped"
"""A node that is not a sensor: whoever writes a sensor's name there stops it, and starts it again with an empty text."""
_OPCUA = tuple(sensor for sensor in UNITS if sensor not in BY_MQTT)


def _node(name: str, index: int) -> ua.NodeId:
    return ua.NodeId.from_string(f"ns={index};s={name}")


def node_id(name: str) -> str:
    """Return the node id of a sensor of the press, or of ``part_done``."""
    return f"nsu={NAMESPACE};s=Press.{name}"


def declaration(endpoint: str) -> str:
    """Return the ``opcua.yaml`` of the press."""
    sensors = [
        f'  - {{node: "{node_id(sensor)}", name: {sensor}, unit: {UNITS[sensor]}, sampling: 0.05s, report: updates}}'
        for sensor in _OPCUA
    ]
    lines = [
        "# The press of the simulated plant, as docs/machines.md explains it.",
        f"endpoint: {endpoint}",
        f"machine: {PRESS}",
        "sampling: 0.05s",
        "publishing: 0.2s",
        "nodes:",
        *sensors,
        f'  - {{node: "{node_id("part_done")}", name: part_done}}',
    ]
    return "\n".join(lines) + "\n"


async def stop_sensor(endpoint: str, sensor: str) -> None:
    """Stop a sensor of the running plant; with an empty text all work again.

    Raises:
        OSError: The plant does not answer.
    """
    async with Client(endpoint, timeout=5) as client:
        index = await client.get_namespace_index(NAMESPACE)
        await client.get_node(_node(STOPPED, index)).write_value(sensor)


class Plant:
    """The press at work, with its server and its devices."""

    def __init__(self, server: Server, mqtt: MqttClient, seed: int) -> None:
        self._server, self._mqtt = server, mqtt
        self._press = Press(seed)
        self._lags = random.Random(seed)  # noqa: S311 - a simulation, no secret
        self._index = 0
        self._waiting: deque[tuple[float, str, float]] = deque()

    @classmethod
    @asynccontextmanager
    async def started(cls, endpoint: str, mqtt: MqttClient, seed: int) -> AsyncIterator[Plant]:
        """A plant with a running server until the block ends."""
        server = Server()
        await server.init()
        server.set_endpoint(endpoint)
        server.set_server_name("Simulated press")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        plant = cls(server, mqtt, seed)
        plant._index = await server.register_namespace(NAMESPACE)
        folder = await server.nodes.objects.add_folder(plant._index, "Press")
        for name in (*(f"Press.{sensor}" for sensor in _OPCUA), "Press.part_done", STOPPED):
            first = "" if name in ("Press.part_done", STOPPED) else 0.0
            sensor = name.removeprefix("Press.")
            variable = await folder.add_variable(_node(name, plant._index), ua.QualifiedName(sensor, plant._index), first)
            if sensor in UNITS:
                unit = ua.EUInformation(DisplayName=ua.LocalizedText(UNITS[sensor]))
                await variable.add_property(0, "EngineeringUnits", unit)
            if name == STOPPED:
                await variable.set_writable()
            else:
                await plant._write(name, None, StatusCodes.BadWaitingForInitialData)
        async with server:
            yield plant

    async def run(self) -> None:
        """Make parts until it is cancelled."""
        loop = asyncio.get_running_loop()
        shift, part, due = f"P-{datetime.now(UTC):%y%m%d%H%M%S}", 0, loop.time()
        while True:
            part += 1
            self._press.next_part()
            stopped = await self._server.get_node(_node(STOPPED, self._index)).read_value()
            if part % DEVICE_PARTS == 0:
                self._send_devices(stopped)
            for _ in range(READINGS_IN_PART):
                await self._measure(stopped)
                due += PART_SECONDS / READINGS_IN_PART
                await asyncio.sleep(max(0.0, due - loop.time()))
            number = f"{shift}-{part:05d}"
            await self._write("Press.part_done", number)
            self._waiting.append((loop.time() + self._lags.uniform(*LAB_SECONDS), number, self._press.lab_value()))
            self._send_lab_values(loop.time())

    async def _measure(self, stopped: str) -> None:
        for sensor in _OPCUA:
            if sensor == stopped:
                await self._write(f"Press.{sensor}", None, StatusCodes.BadSensorFailure)
            else:
                await self._write(f"Press.{sensor}", self._press.reading(sensor))

    async def _write(self, name: str, value: float | str | None, status: int = StatusCodes.Good) -> None:
        now: Any = datetime.now(UTC)
        data = ua.DataValue(ua.Variant(value), ua.StatusCode(ua.UInt32(status)), now, now)
        await self._server.write_attribute_value(_node(name, self._index), data)

    def _send_devices(self, stopped: str) -> None:
        for sensor, machine in BY_MQTT.items():
            if sensor != stopped:
                self._publish(f"things/{machine}/{sensor}", {"value": self._press.reading(sensor), "unit": UNITS[sensor]})

    def _send_lab_values(self, now: float) -> None:
        for _ in range(len(self._waiting)):
            at, number, value = self._waiting.popleft()
            if at <= now:
                self._publish("things/lab/strength", {"id": number, "strength": value})
            else:
                self._waiting.append((at, number, value))

    def _publish(self, topic: str, fields: Mapping[str, object]) -> None:
        payload = {**fields, "timestamp": datetime.now(UTC).isoformat()}
        self._mqtt.publish(topic, json.dumps(payload), qos=1)  # paho repeats it until the broker acknowledges it


async def main() -> None:
    """Run the plant with the ports of the environment."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    given = os.environ
    mqtt = MqttClient(CallbackAPIVersion.VERSION2, client_id="plant", clean_session=False)
    mqtt.max_queued_messages_set(10_000)
    if given.get("PLANT_MQTT_USER"):
        mqtt.username_pw_set(given["PLANT_MQTT_USER"], given["PLANT_MQTT_PASSWORD"])
    mqtt.reconnect_delay_set(1, 2)
    mqtt.connect_async("127.0.0.1", int(given["PLANT_MQTT_PORT"]))
    mqtt.loop_start()
    endpoint = f"opc.tcp://127.0.0.1:{given['PLANT_OPCUA_PORT']}"
    async with Plant.started(endpoint, mqtt, int(given.get("PLANT_SEED", "1"))) as plant:
        log.info("The press answers at %s; a part takes %g s", endpoint, PART_SECONDS)
        await plant.run()


if __name__ == "__main__":
    asyncio.run(main())
