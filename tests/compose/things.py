"""``make compose-things DEPLOYMENT=mongo|maria``: single readings in containers, with a Prometheus that watches.

A deployment of its own is made for it, with the simulated press's data set: Things come over NATS as FastIoT's services send them,
readings and labels over MQTT as devices do, while containers are killed. Needs what ``compose.proof`` needs, and Prometheus's image.
Grafana is not started: nothing here could look at it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import nats
from fastiot.core.serialization import serialize_to_bin
from fastiot.msg import Thing
from typing_extensions import override

from complex_system.deploy.observability import FILES
from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError
from complex_system.local.plant.press import BY_MQTT, PRESS, UNITS, Press
from complex_system.local.servers import free_port
from complex_system.messaging.clients import SystemClient
from complex_system.protocol.base import Empty
from complex_system.protocol.collection import GET_COLLECTION, CollectionState
from complex_system.protocol.database import RecordCounts
from compose.job import Job
from compose.proof import Proof
from compose.stack import ROOT, ProofError, fiot
from mqtt_device import MqttDevice, mqtt_device

PART_SECONDS = 0.1
FIRST, LATER = 200, 50
"""Parts before the first model, and in each later step."""
LABORATORY = "lab"
DEPLOYED = """\
infrastructure-services: {{nats: , {server}: , mlflow: , prometheus: }}
services:
  {{{database}: , data_processing: , ml_consumer: , ml_lightgbm_regression_mlflow: , ml_monitoring: , ml_serving_mlflow: }}
"""


class ThingsProof(Proof):
    """One run of the proof."""

    def __init__(self, database: str, *, build: bool) -> None:
        super().__init__(f"{database}-things", build=build)
        self.source = ROOT / "deployments" / database
        self.folder = ROOT / "deployments" / self.stack.deployment
        self.server = {"mongo": "mongodb", "maria": "mariadb"}[database]
        self.mqtt_port = free_port()
        self.press = Press(seed=3)
        self.parts = 0

    @override
    async def run(self) -> None:
        try:
            self.write_deployment()
            self.make_ready(own_env=False)
            self.start()
            async with await self.client() as client:
                job = self.job(client)
                await self.readings_become_records(job)
                await self.parts_are_predicted(job)
                await self.watched()
                await self.another_container_dies(job)
                self.memory()
            await self.down_and_up({})
        except BaseException:
            with contextlib.suppress(ProofError):
                print(self.stack.compose("logs", "--tail=15")[-12000:])  # noqa: T201
            raise
        finally:
            self.clean(own_env=True)
            shutil.rmtree(self.folder, ignore_errors=True)

    def write_deployment(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "config_dir").mkdir(parents=True)
        shutil.copy(self.source / "nats.conf", self.folder)
        shipped = (ROOT / "src/complex_system/local/plant/dataset.yaml").read_text(encoding="utf-8")
        mine = shipped.replace("over: 0.5s", f"over: {PART_SECONDS}s").replace("wait: 2s", "wait: 1s")
        (self.folder / "config_dir" / "dataset.yaml").write_text(mine, encoding="utf-8")
        text = DEPLOYED.format(server=self.server, database=self.database)
        (self.folder / "deployment.yaml").write_text(text, encoding="utf-8")
        self.env_file.write_text(f"COMPLEX_SYSTEM_MQTT_PORT={self.mqtt_port}\n", encoding="utf-8")
        for device in (*BY_MQTT.values(), LABORATORY):
            fiot("extras", "add-device", self.stack.deployment, device)
        fiot("extras", "init-env", "--add", self.stack.deployment)
        self.saw(
            f"a deployment that collects, with {self.database}, MQTT, Prometheus, and users of {len(BY_MQTT) + 1} devices"
        )

    @override
    def job(self, client: SystemClient) -> Job:
        environment = self.stack.environment()
        urls = {"ml_serving_mlflow": f"http://127.0.0.1:{environment['COMPLEX_SYSTEM_SERVING_MLFLOW_PORT']}"}
        job = Job(client, self.settings(), urls, Dataset.load(self.folder / "config_dir"))
        job.record = {"_id": "P-0", **{sensor: getattr(self.press.conditions, sensor) for sensor in UNITS}}
        return job

    # Steps

    async def readings_become_records(self, job: Job) -> None:
        killed = asyncio.create_task(self.die("thing_collection", after=FIRST / 2 * PART_SECONDS))
        await self.make_parts(FIRST)
        await killed
        counts = await self.all_labelled(job)
        state = await self.state(job)
        if (state.counts.records, state.counts.malformed, state.counts.unusable) != (FIRST, 0, 0):
            raise ProofError(f"thing_collection counts otherwise: {state.counts}")
        self.saw(
            f"{FIRST} parts, their readings by NATS and MQTT, their labels by MQTT, thing_collection killed in between: "
            f"{counts.raw} records saved once, {counts.labelled} labelled"
        )

    async def parts_are_predicted(self, job: Job) -> None:
        champion, seconds = await job.until("a champion", job.champion, 600)
        await job.until("a prediction over REST", lambda: job.over_rest("ml_serving_mlflow"), 120)
        self.saw(f"champion: {champion.model} version {champion.version} ({seconds:.0f} s); it predicts over REST")
        await self.make_parts(LATER)
        await self.all_labelled(job)

        async def predicted() -> CollectionState | None:
            state = await self.state(job)
            return state if state.counts.predicted >= LATER else None

        state, _ = await job.until(f"{LATER} predictions at part-done", predicted, 60)
        self.saw(f"{LATER} more parts: {state.counts.predicted} were predicted as soon as they were done")
        self.stack.wait_healthy(180)
        self.saw("all containers healthy, serving too")

    async def watched(self) -> None:
        """Prometheus scrapes with its key, judges the rules, and understands every query of the dashboards."""
        address = f"http://127.0.0.1:{self.stack.environment()['COMPLEX_SYSTEM_PROMETHEUS_PORT']}/api/v1"
        async with httpx.AsyncClient(timeout=20, trust_env=False) as http:

            async def result(path: str, **query: str) -> Any:
                answer = await http.get(f"{address}/{path}", params=query)
                if answer.json()["status"] != "success":
                    raise ProofError(f"Prometheus: {query or path}: {answer.text[:300]}")
                return answer.json()["data"]

            began = time.monotonic()
            while True:
                targets = (await result("targets"))["activeTargets"]
                silent = {
                    each["metric"]["name"]: each["value"][1]
                    for each in (await result("query", query="monitoring_sensors_silent"))["result"]
                }
                if {each["health"] for each in targets} == {"up"} and set(silent.values()) == {"1"}:
                    break
                if time.monotonic() - began > 120:
                    raise ProofError(f"Prometheus: {[(each['labels'], each['lastError']) for each in targets]}, {silent}")
                await asyncio.sleep(1)
            self.saw(
                f"Prometheus scrapes {len(targets)} services with the key, and sees that the {len(silent)} sensors are silent now"
            )
            rules = [rule for group in (await result("rules"))["groups"] for rule in group["rules"]]
            if bad := [rule for rule in rules if rule["health"] not in ("ok", "unknown")]:
                raise ProofError(f"Rules that fail: {bad}")
            empty, asked = [], 0
            for title, query in queries():
                asked += 1
                if not (await result("query", query=query))["result"]:
                    empty.append(title)
            self.saw(f"it judges {len(rules)} rules and answers the {asked} queries of the dashboards")
            self.saw(f"queries without a series now: {', '.join(empty) or 'none'}")

    async def another_container_dies(self, job: Job) -> None:
        for service in (self.database, "nats"):
            before = self.parts
            killed = asyncio.create_task(self.die(service, after=LATER / 2 * PART_SECONDS))
            await self.make_parts(LATER)
            await killed
            await self.all_labelled(job)
            self.saw(
                f"{self.parts - before} more parts with {service} killed in between: every record saved once and labelled"
            )

    @override
    async def down_and_up(self, before: dict[str, object]) -> None:
        fiot("stop", self.stack.deployment)
        fiot("start", self.stack.deployment, "-d")
        self.stack.wait_healthy(420)
        async with await self.client() as client:
            await self.make_parts(LATER)
            await self.all_labelled(self.job(client))
        self.saw(
            f"fiot stop and fiot start: everything is there, {LATER} more parts are saved once and labelled, {self.parts} in all"
        )

    # Parts

    async def make_parts(self, count: int) -> None:
        """Publish readings, the number and the laboratory's value of so many parts, at the press's pace."""
        environment = self.stack.environment()
        secret = environment["COMPLEX_SYSTEM_NATS_PASSWORD_FIOT"]
        address = f"nats://127.0.0.1:{environment['FASTIOT_NATS_PORT']}"
        connection = await nats.connect(
            address, user="fiot", password=secret, max_reconnect_attempts=-1, reconnect_time_wait=0.2
        )
        with contextlib.ExitStack() as stack:
            devices = {name: stack.enter_context(self.device(name)) for name in (*BY_MQTT.values(), LABORATORY)}
            due = time.monotonic()
            for _ in range(count):
                self.press.next_part()
                self.parts += 1
                number, now = f"P-{self.parts:05d}", time.time()
                for sensor, unit in UNITS.items():
                    value = self.press.reading(sensor)
                    if machine := BY_MQTT.get(sensor):
                        fields = {"value": value, "unit": unit, "timestamp": now}
                        devices[machine].publish(f"things/{machine}/{sensor}", json.dumps(fields))
                    else:
                        await self.publish(connection, sensor, value, now, unit)
                await self.publish(connection, "part_done", number, now, "")
                label = {"id": number, "strength": self.press.lab_value()}
                devices[LABORATORY].publish("things/lab/strength", json.dumps({"value": label, "timestamp": now}))
                due += PART_SECONDS
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            for device in devices.values():
                await asyncio.to_thread(device.settle)
        await connection.close()

    @staticmethod
    async def publish(connection: nats.NATS, sensor: str, value: float | str, at: float, unit: str) -> None:
        """Publish a Thing as FastIoT does, and wait until the broker has taken it."""
        made = Thing(machine=PRESS, name=sensor, value=value, timestamp=datetime.fromtimestamp(at, UTC), unit=unit)
        while True:
            await connection.publish(made.default_subject.name, serialize_to_bin(Thing, made))
            try:
                await connection.flush(5)
                return
            except (nats.errors.Error, OSError):
                await asyncio.sleep(0.2)  # the same reading twice changes nothing

    @contextlib.contextmanager
    def device(self, name: str) -> Iterator[MqttDevice]:
        secret = self.stack.environment()[f"COMPLEX_SYSTEM_NATS_DEVICE_{name.upper().replace('-', '_')}"]
        with mqtt_device(self.mqtt_port, name, secret) as device:
            yield device

    async def all_labelled(self, job: Job) -> RecordCounts:
        """Wait until every part is a record with a label; there must not be more."""

        async def there() -> RecordCounts | None:
            counts = await job.counts()
            return counts if min(counts.raw, counts.labelled) >= self.parts else None

        counts, _ = await job.until(f"{self.parts} labelled records", there, 180)
        if (counts.raw, counts.labelled, counts.rejected) != (self.parts, self.parts, 0):
            raise ProofError(f"{self.parts} parts became {counts}")
        return counts

    @staticmethod
    async def state(job: Job) -> CollectionState:
        return await job.client.ask(GET_COLLECTION, Empty(), 5)

    async def die(self, service: str, after: float) -> None:
        """Crash a container, and wait until Docker has started it again."""
        await asyncio.sleep(after)
        [container] = self.stack.of(service)
        self.stack.crash(container)
        began = time.monotonic()
        while time.monotonic() - began < 120:
            [now] = await asyncio.to_thread(self.stack.of, service)
            if now.running and now.started != container.started:
                return
            await asyncio.sleep(0.5)
        raise ProofError(f"{service} does not come back")


def queries() -> Iterator[tuple[str, str]]:
    """Every query of the dashboards, with its panel."""
    for path in sorted((FILES / "dashboards").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for panel in content["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]


def main() -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description="Single readings in containers.")
    parser.add_argument("database", choices=("mongo", "maria"))
    parser.add_argument("--no-build", action="store_true", help="use the existing images")
    options = parser.parse_args()
    proof = ThingsProof(options.database, build=not options.no_build)
    try:
        asyncio.run(proof.run())
        text = proof.summary()
    except (ProofError, ComplexSystemError) as error:
        raise SystemExit(f"compose-things {options.database} failed: {error}") from error
    target = ROOT / "build" / f"compose-things-{options.database}.md"
    Path(target).write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")  # noqa: T201


if __name__ == "__main__":
    main()
