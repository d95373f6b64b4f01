"""``fiot run --scenario plant``: what a run with the simulated plant needs, and the steps that show that it works."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from typing_extensions import override

from complex_system.domain.json_schema import put_beside
from complex_system.local.scenario import ENDED, POLL, ScenarioDemo
from complex_system.local.servers import HOST, free_port
from complex_system.local.servers.plant import PlantServer
from complex_system.protocol.operations import ALERT_ENDED, ALERT_RAISED, Alert
from complex_system.protocol.serving import PREDICTION_MADE, PredictionMade
from complex_system.settings import Settings

PREDICTED, JOINED = "parts predicted when they are done", "laboratory's values joined"
STOPPED, SILENT, RESUMED = "sensor stopped", "silent sensor noticed", "sensor works again"
PLANT_STEPS = (PREDICTED, JOINED, STOPPED, SILENT, RESUMED, ENDED)

SENSOR = "oil_temperature"
"""The sensor that the demo stops: it has no effect of its own, so the predictions stay good."""
ENOUGH = 20
"""Predictions at part-done, and predictions with the laboratory's value, that the demo waits for."""
_SILENT = "sensors/silent/"
_PORT = PlantServer.port_variable


def plant_options(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Write the plant's declarations and return the variables of a run with it.

    Args:
        folder: Where the declarations go.
        environment: Variables that the deployment sets.
    """
    from complex_system.local.plant.simulator import declaration

    folder.mkdir(parents=True, exist_ok=True)
    shipped = resources.files("complex_system.local.plant") / "dataset.yaml"
    shutil.copyfile(str(shipped), folder / "dataset.yaml")
    put_beside(folder / "dataset.yaml")
    port = free_port(int(environment.get(_PORT) or PlantServer.default_port))
    (folder / "opcua.yaml").write_text(declaration(f"opc.tcp://{HOST}:{port}"), encoding="utf-8")
    settings = Settings.of(environment)
    return {
        "FASTIOT_CONFIG_DIR": str(folder),
        "FASTIOT_MONGO_DB_NAME": f"{settings.mongo_name}_press",
        "COMPLEX_SYSTEM_MARIA_NAME": f"{settings.maria_name}_press",
        "COMPLEX_SYSTEM_OPCUA_FILE": "opcua.yaml",
        "COMPLEX_SYSTEM_MQTT_PORT": str(free_port(settings.mqtt_port or 1883)),
        _PORT: str(port),
    }


class PlantDemo(ScenarioDemo):
    """Waits for predictions and the laboratory's values, and stops a sensor for a while."""

    _predicted = 0

    @override
    async def run(self) -> None:
        client = await self._client()
        await client.hear(PREDICTION_MADE, self._count)
        await client.hear(ALERT_RAISED, self._alerted)
        await client.hear(ALERT_ENDED, self._ended)
        while self.missing:
            await self._measure(client)
            if self._predicted >= ENOUGH:
                self._happened(PREDICTED, f"{self._predicted} by the champion")
            if self._scenario.pairs >= ENOUGH and self._scenario.origin == "live" and self._has(PREDICTED):
                self._happened(JOINED, self._error())
            if self.missing == STOPPED:
                await self._stop(SENSOR, STOPPED, f"{SENSOR} gives bad values")
            elif self.missing == RESUMED:
                await self._stop("", RESUMED, SENSOR)
            await asyncio.sleep(POLL)

    async def _stop(self, sensor: str, step: str, text: str) -> None:
        from complex_system.local.plant.simulator import stop_sensor

        with contextlib.suppress(OSError, TimeoutError):
            await stop_sensor(self._state.infrastructure[PlantServer.name].url, sensor)
            self._happened(step, text)

    async def _count(self, message: PredictionMade) -> None:
        if message.origin == "live":
            self._predicted += len(message.predictions)

    @override
    async def _alerted(self, alert: Alert) -> None:
        if alert.metric.startswith(_SILENT) and alert.metric.endswith(SENSOR) and self._has(STOPPED):
            self._happened(SILENT, alert.sentence)

    @override
    async def _ended(self, alert: Alert) -> None:
        self._state.alerts.pop(alert.key, None)
        if alert.metric.startswith(_SILENT) and alert.metric.endswith(SENSOR) and self._has(RESUMED):
            self._happened(ENDED, alert.over)
