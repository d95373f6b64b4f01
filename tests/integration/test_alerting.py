"""Alerts of ml_monitoring over the real broker and database: announced, kept, posted, and told what was done."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from complex_system.domain.laboratory import Laboratory
from complex_system.errors import DeclarationError
from complex_system.local.servers import Server, free_port
from complex_system.messaging.clients import DocumentClient
from complex_system.messaging.handlers import hears
from complex_system.messaging.operators import send_test_messages
from complex_system.messaging.service import SystemService
from complex_system.protocol.base import Empty
from complex_system.protocol.operations import ALERT_ENDED, ALERT_RAISED, GET_ALERTS, Alert
from complex_system.protocol.serving import PREDICTION_MADE, TRUTH_KNOWN, PredictedRecord, PredictionMade, Truth, TruthKnown
from complex_system.protocol.training import COMPARISON_FINISHED, TRAINING_ROUND, TrainingRound
from complex_system.settings import Settings
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from complex_system_services.ml_monitoring.ml_monitoring_service import MlMonitoringService
from mail_server import MailServer
from monitoring_page.messages import compared, comparison
from receiver import Receiver
from support import eventually, running

RULES = """
rules:
- {name: error, metric: performance/mae, above: 20, clear: 10, min_count: 5, retrain: true, severity: critical}
"""


class HastyMonitoring(MlMonitoringService):
    """Does not wait long for the MLflow that is not there."""

    last_write = 0.5


class AlertEar(SystemService):
    """Hears alerts, and plays the consumer and serving."""

    __test__ = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.raised: list[Alert] = []
        self.ended: list[Alert] = []
        self.made = 0

    @hears(ALERT_RAISED)
    async def on_raised(self, alert: Alert) -> None:
        self.raised.append(alert)

    @hears(ALERT_ENDED)
    async def on_ended(self, alert: Alert) -> None:
        self.ended.append(alert)

    async def predict(self, error: float, count: int = 10) -> None:
        """Predictions that are off by so much, and their truths."""
        records = [Laboratory(self.made + place).complete_record() for place in range(count)]
        self.made += count
        keys = [uuid4().hex for _ in records]
        predictions = [
            PredictedRecord(id=key, record=record, prediction=100.0 + error)
            for key, record in zip(keys, records, strict=True)
        ]
        await self.announce(PREDICTION_MADE, PredictionMade(
            service="ml_serving_mlflow", model="lab-lightgbm", version="1", pipeline_version=self.dataset.version,
            milliseconds=1.0, predictions=tuple(predictions),
        ))  # fmt: skip
        await self.announce(TRUTH_KNOWN, TruthKnown(truths=tuple(Truth(id=key, truth=100.0) for key in keys)))


@pytest.fixture
def settings(nats_server: Server, mongo_server: Server, make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    (tmp_path / "alerts.yaml").write_text(RULES)
    return make_settings(
        nats_server, mongo_server, mongo_name=f"t{uuid4().hex[:8]}", config_dir=str(tmp_path), monitoring_interval=0.1,
        monitoring_window=10, monitoring_port=0, mlflow_tracking_uri="http://127.0.0.1:9",
    )  # fmt: skip


@asynccontextmanager
async def system(settings: Settings) -> AsyncIterator[AlertEar]:
    async with running(DatabaseMongoService, settings), running(AlertEar, settings) as ear:
        yield ear


async def test_an_alert_is_announced_kept_posted_and_told_what_was_done(settings: Settings) -> None:
    receiver = Receiver()
    settings = settings.copy(update={"webhook_url": f"http://127.0.0.1:{receiver.server_port}/alerts"})
    try:
        async with system(settings) as ear:
            async with running(HastyMonitoring, settings) as monitoring:
                await eventually(lambda: monitoring.monitor.history.loaded)
                await ear.predict(50.0)
                (raised,) = await eventually(lambda: ear.raised)
                assert (raised.rule, raised.severity, raised.retrain) == ("error", "critical", True)
                assert (await ear.ask(GET_ALERTS, Empty())).open[0].key == raised.key

                about = {"round": "r7", "alerts": (raised.key, "unknown"), "cause": "alert"}
                await ear.announce(TRAINING_ROUND, TrainingRound(**about, stage="started"))
                model = compared("lab-lightgbm", "1", 14.5)
                await ear.announce(COMPARISON_FINISHED, comparison(model, **about, kept="lab-lightgbm 1 stays champion."))

                async def has_acted() -> bool:
                    actions = (await ear.ask(GET_ALERTS, Empty())).open[0].actions
                    return [(each.round, each.outcome, each.what) for each in actions] == [
                        ("r7", "kept", "lab-lightgbm 1 stays champion.")
                    ]

                await eventually(has_acted)
                # The service does not wait long for a slow database when it ends; a test of its restart does.
                documents = DocumentClient(ear)

                async def kept(check: Callable[[Any], bool]) -> bool:
                    return [check(each.body) for each in await documents.between("alert", 0, time.time() + 60)] == [True]

                await eventually(lambda: kept(lambda alert: [each["outcome"] for each in alert["actions"]] == ["kept"]))

            # A restart: the alert is still open, and ends when the error does.
            async with running(HastyMonitoring, settings):

                async def is_open() -> bool:
                    return [each.key for each in (await ear.ask(GET_ALERTS, Empty())).open] == [raised.key]

                await eventually(is_open)
                await ear.predict(1.0)
                ended = await eventually(lambda: ear.ended and ear.ended[0])
                assert ended.key == raised.key
                assert ended.actions[0].outcome == "kept"
                assert ended.ended >= ended.began
                await eventually(lambda: kept(lambda alert: alert["ended"] == ended.ended))
                await eventually(lambda: len(receiver.bodies) == 2)
            found = await documents.between("alert", 0, time.time() + 60)
            assert [(each.key, each.body["ended"]) for each in found] == [(raised.key, ended.ended)]
            assert [body["event"] for body in receiver.bodies] == ["alert-raised", "alert-ended"]
            assert receiver.bodies[0]["text"] == raised.sentence
            assert receiver.bodies[1]["alert"]["over"] == ended.over
            assert receiver.bodies[0]["system"] == "lab"
            assert len(ear.raised) == 1, "the restart has not raised it again"
    finally:
        receiver.stop()


async def test_a_restart_between_an_alert_and_its_delivery_loses_no_message(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apprise.NotifyBase.request_rate_per_sec", 0)  # otherwise Apprise waits between two messages
    ports = free_port(), free_port()  # not of the kernel's, which gives one to somebody else while nobody listens there
    (Path(settings.config_dir) / "alerts.yaml").write_text(f"{RULES}messages: {{group: 0.5}}\n")
    addresses = f"mailto://127.0.0.1:{ports[1]}?from=plant@test.example&to=shift@test.example"
    settings = settings.copy(
        update={
            "webhook_url": f"http://127.0.0.1:{ports[0]}/alerts",
            "webhook_secret": "a secret of one's own",
            "message_urls": addresses,
        }
    )
    started: list[Receiver | MailServer] = []
    try:
        async with system(settings) as ear:
            documents = DocumentClient(ear)

            async def noted() -> list[dict[str, Any]]:
                found = await documents.between("alert", 0, time.time() + 60)
                tried = [message for each in found for message in each.body["messages"] if message["attempts"]]
                return tried if len(tried) == 2 else []

            async with running(HastyMonitoring, settings) as monitoring:
                await eventually(lambda: monitoring.monitor.history.loaded)
                await ear.predict(50.0)
                await eventually(lambda: ear.raised)
                # In the database while the service runs, so a kill loses no more than a restart.
                before = await eventually(noted)
                assert {each["outcome"] for each in before} == {"waiting"}
                lines: list[str] = []
                assert not await send_test_messages(settings, lines.append)
                assert [line.partition(": not delivered: ")[::2] for line in lines] == [
                    (f"webhook at 127.0.0.1:{ports[0]}", "ConnectionRefusedError"),
                    (
                        "mailto",
                        'Connection error while submitting email to "***" Socket Exception: [Errno 111] Connection refused',
                    ),
                ]
                waiting = {"webhook": 1.0, "mailto": 1.0}
                await eventually(lambda: monitoring.monitor.figures.by_subject("messages/waiting") == waiting)

            started += [again := Receiver(ports[0]), mails := MailServer(ports[1])]
            async with running(HastyMonitoring, settings):
                await eventually(lambda: again.bodies and mails.mails)
                assert await send_test_messages(settings, lines.append)
                assert lines[2:] == [f"webhook at 127.0.0.1:{ports[0]}: delivered", "mailto: delivered"]
                assert (again.bodies.pop()["event"], len(again.bodies)) == ("test", 1)
                assert again.headers.pop()["Webhook-Id"].startswith("test-")
                assert mails.mails.pop()["subject"] == "[lab] Test message"
                ids = {each["channel"]: each["id"] for each in before}
                assert again.bodies[0]["alert"]["key"] == ear.raised[0].key
                assert [each["Webhook-Id"] for each in again.headers] == [ids["webhook"]]
                assert ids["mailto"] in mails.mails[0].get_body(("plain",)).get_content()  # type: ignore[union-attr]

                async def delivered() -> bool:
                    messages = (await ear.ask(GET_ALERTS, Empty())).open[0].messages
                    return [each.outcome for each in messages] == ["delivered", "delivered"]

                await eventually(delivered)
            assert (len(again.bodies), len(mails.mails), len(ear.raised)) == (1, 1, 1)
    finally:
        for server in started:
            server.stop()


async def test_rules_that_are_wrong_keep_the_service_from_starting(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text("rules:\n- {name: a, metric: m, above: high}\n")
    with pytest.raises(DeclarationError, match=r"alerts\.yaml, line 2: 'above' must be a number, not 'high'"):
        async with running(HastyMonitoring, settings):
            pass
