"""A service of a project's own, written for FastIoT alone: its user at the broker, its connection, and its part in a run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastiot.msg import Thing
from playwright.async_api import expect

from complex_system.cli.project import create_project
from complex_system.local.servers import ANY_PORT, NatsServer, Server
from complex_system.messaging.clients import SystemClient
from complex_system.messaging.subjects import PREDICT, reply_subject
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import SERVICE_HEARTBEAT, Heartbeat, health_request
from complex_system.settings import Settings
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from monitoring_page.browser import PATIENCE, PHONE, browser, tab_at
from runs import FIOT
from support import TesterService, eventually, running, started

EVIL = "<img src=x onerror=alert(1)>"
SERVICE = """
from fastiot.core import FastIoTService, ReplySubject, Subject, subscribe
from fastiot.msg.thing import Thing

PREDICT = ReplySubject(name="get-prediction", msg_cls=Thing, reply_cls=Thing)
CHAMPION = Subject(name="champion-changed", msg_cls=Thing)


class MyService(FastIoTService):
    @subscribe(subject=Thing.get_subject("press"))
    async def consume(self, thing):
        found = await self.broker_connection.request(PREDICT, thing.copy(update={"value": [{"x": thing.value}]}), timeout=10)
        await self.broker_connection.publish(CHAMPION, found)
        await self.broker_connection.publish(Thing.get_subject("strength"), found)


if __name__ == "__main__":
    MyService.main()
"""


def thing(name: str, value: Any) -> Thing:
    return Thing(machine="test", name=name, measurement_id="1", value=value, timestamp=datetime.now(UTC), unit="")


@contextmanager
def my_service(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """The service below ``folder`` as ``fiot run`` starts it; its log."""
    package = folder / "my_plant_services" / "my_service"
    package.mkdir(parents=True)
    for place in (package.parent, package):
        (place / "__init__.py").touch()
    (package / "run.py").write_text(SERVICE)
    command = [sys.executable, "-m", "complex_system.messaging.project_service", "my_plant_services.my_service.run"]
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(folder))))
    environment = {**os.environ, **environment, "PYTHONPATH": path, "FASTIOT_CONFIG_DIR": str(folder)}
    log = folder / "my_service.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        yield log
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()


async def test_a_service_written_for_fastiot_alone_works_with_a_user_of_its_own(tmp_path: Path) -> None:
    broker = NatsServer(tmp_path / "nats", port=0, asks=True)
    broker.services = ("my_service",)
    beats: list[Heartbeat] = []
    asked: list[Any] = []
    heard: list[Any] = []

    async def predict(request: Thing) -> Thing:
        asked.append(request.value)
        return thing("prediction", [[1.5]])

    async def hear(found: Thing) -> None:
        heard.append(found.value)

    async def beat(found: Heartbeat) -> None:
        beats.append(found)

    with started(broker):
        everything = broker.environment()
        settings = Settings.of({**os.environ, **everything})
        async with await SystemClient.open(settings, "tester") as tester:
            await tester.hear(SERVICE_HEARTBEAT, beat)
            await tester.broker.subscribe_reply_cb(reply_subject(PREDICT), predict)
            await tester.broker.subscribe(Thing.get_subject("strength"), hear)
            await tester.broker.settle()
            with my_service(tmp_path, {**everything, **broker.service_environment("my_service")}) as log:

                async def answered() -> bool:
                    await tester.broker.publish(Thing.get_subject("press"), thing("press", 7))
                    return bool(heard)

                await eventually(answered, 30)
                assert (asked[0], heard[0]) == ([{"x": 7}], [[1.5]])
                assert (await tester.ask(health_request("my_service"), Empty(), 5.0)).state == "ready"
                # What only ml_consumer may announce.
                said = "does not permit the user 'my_service' to publish on 'champion-changed'"
                await eventually(lambda: said in log.read_text())
            await eventually(lambda: beats[-1].state == "stopped")
            assert {(each.service, each.state) for each in beats} == {("my_service", "ready"), ("my_service", "stopped")}


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"monitoring_interval": 0.3, "monitoring_port": 0}


@pytest.mark.long
async def test_monitoring_shows_it_like_ours_and_nothing_of_a_name_that_is_markup(
    settings: Settings, nats_server: Server, database: None, tester: TesterService, tmp_path: Path
) -> None:
    async with browser() as chromium, running(MlMonitoringService, settings) as monitoring:
        url = monitoring.url
        async with httpx.AsyncClient(base_url=url) as http, tab_at(chromium, url) as (tab, _):
            with my_service(tmp_path, nats_server.environment()):

                async def shown() -> Any:
                    services = (await http.get("/api/overview")).json()["services"]
                    return next((each for each in services if each["service"] == "my_service"), None)

                mine = await eventually(shown, 120)
                assert (mine["state"], mine["running"], len(mine["replicas"])) == ("ready", 1, 1)
                assert mine["replicas"][0]["heartbeat_age"] >= 0
                for evil in (f"press_{EVIL}", "Press", "x" * 64):
                    await tester.announce(SERVICE_HEARTBEAT, Heartbeat(service=evil))
                await tester.announce(
                    SERVICE_HEARTBEAT, Heartbeat(service="x" * 63, replica=EVIL, detail=EVIL, url=f"x:{EVIL}")
                )

                async def measured() -> bool:
                    return b'monitoring_services_replicas{name="my_service"} 1.0' in (await http.get("/metrics")).content

                await eventually(measured, 60)
                await expect(tab.locator("#overview-services")).to_contain_text("x" * 63, timeout=PATIENCE)
                row = tab.locator("#overview-services tr", has_text="my_service")
                await expect(row.locator("td").nth(1)).to_contain_text("ready", timeout=PATIENCE)
                await expect(row.locator("td").nth(2)).to_have_text("1", timeout=PATIENCE)
                names = {each.service for each in monitoring.monitor.services.services()}
                assert {"my_service", "x" * 63} <= names
                assert not names & {f"press_{EVIL}", "Press", "x" * 64}
                assert "press_<" not in await tab.inner_text("main")
                assert await tab.locator("#overview-services img").count() == 0
                for theme in ("light", "dark"):
                    phone = {"viewport": PHONE, "is_mobile": True, "has_touch": True, "color_scheme": theme}
                    async with tab_at(chromium, url, **phone) as (small, _):
                        await expect(small.locator("#overview-services")).to_contain_text("my_service", timeout=PATIENCE)
                        assert await small.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            # It says that it stops, so that nobody misses it.
            await expect(row.locator("td").nth(1)).to_contain_text("stopped", timeout=PATIENCE)


@pytest.mark.long
async def test_fiot_run_starts_a_new_service_of_a_project_with_a_user_of_its_own(tmp_path: Path) -> None:
    project = tmp_path / "my-plant"
    create_project(project)
    subprocess.run([FIOT, "create", "new-service", "my_service"], cwd=project, check=True)
    own = project / "deployments" / "own"
    shutil.copytree(project / "deployments" / "mongo", own)
    text = re.sub(r"^  (mlflow|ml_\w+):\n", "", (own / "deployment.yaml").read_text(), flags=re.MULTILINE)
    (own / "deployment.yaml").write_text(text.replace("\nservices:\n", "\nservices:\n  my_service:\n"))
    run = subprocess.Popen([FIOT, "run", "own", "--locked", "--records", "200"], cwd=project, env={**os.environ, **ANY_PORT})
    try:
        place = project / ".run" / "own"

        def works() -> bool:
            if not (place / "status.json").is_file():
                return False
            status = json.loads((place / "status.json").read_text())
            ready = all(each["state"] in ("ready", "working") for each in status["services"].values())
            return ready and status["records"]["processed"] >= 200 and len(status["services"]) == 4

        await eventually(works, 120)
        # The first lines that FastIoT writes publish a Thing every two seconds, and hear all Things.
        await eventually(lambda: (place / "logs" / "my_service.log").read_text().count("v1.thing.my_sensor_") > 2, 30)
    finally:
        run.terminate()
        run.wait(60)
    assert "does not permit" not in (place / "logs" / "my_service.log").read_text()
