"""The simulated plant of ``fiot run --scenario plant``."""

from __future__ import annotations

import sys
from pathlib import Path

from typing_extensions import override

from complex_system.local.servers.base import Server
from complex_system.local.servers.nats import NatsServer


class PlantServer(Server):
    """A press with an OPC UA server, and devices that publish to the broker over MQTT."""

    name = "plant"
    scheme = "opc.tcp"
    host_variable, port_variable = "COMPLEX_SYSTEM_PLANT_HOST", "COMPLEX_SYSTEM_PLANT_PORT"
    default_port = 4840

    def __init__(self, directory: Path, log_dir: Path, port: int, *, broker: NatsServer, seed: int) -> None:
        """Prepare the plant.

        Args:
            directory: Its folder.
            log_dir: Folder of its log file.
            port: Where the OPC UA server listens.
            broker: Where its devices publish; it takes MQTT.
            seed: Of what the press does.
        """
        super().__init__(directory, log_dir, port)
        self._broker, self._seed = broker, seed

    @override
    def command(self) -> list[str]:
        return [sys.executable, "-m", "complex_system.local.plant.simulator"]

    @override
    def environment(self) -> dict[str, str]:
        return {}

    @override
    def secrets(self) -> dict[str, str]:
        broker = self._broker.environment()
        return {
            "PLANT_OPCUA_PORT": str(self.port),
            "PLANT_MQTT_PORT": str(self._broker.mqtt_port),
            "PLANT_MQTT_USER": broker["FASTIOT_NATS_USER"],
            "PLANT_MQTT_PASSWORD": broker["FASTIOT_NATS_PASSWORD"],
            "PLANT_SEED": str(self._seed),
        }
