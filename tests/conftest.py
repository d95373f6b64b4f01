"""Real servers for the tests, started once a run on free ports and in a folder of their own."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.local.servers import MariaServer, MlflowServer, MongoServer, NatsServer, Server
from complex_system.settings import Settings
from support import BROKER_PASSWORD, Ear, TesterService, guarded, running, server_fixture

LONGEST_FIRST = ("test_scenario_run", "test_fiot_run", "test_faults", "test_monitoring_page")
"""Files that take minutes. Two processes share the files, and one that came last would run alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Shows the figures that tests recorded (``record_property``), from whichever process."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps FastIoT from loading a deployment's environment, and W&B and MLflow from writing here; a few trials of a search do."""
    folder = tmp_path_factory.mktemp("environment")
    own = {"FASTIOT_CONFIG_DIR": str(folder), "WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true",
           "COMPLEX_SYSTEM_OUTBOX_DIR": str(folder / "outbox"), "COMPLEX_SYSTEM_LIGHTGBM_TRIALS": "4"}  # fmt: skip
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


class GuardedNatsServer(NatsServer):
    """A broker where every service has its own user; who comes without one may do everything."""

    def prepare(self) -> None:
        super().prepare()
        with (self.directory / "nats.conf").open("a") as configuration:
            configuration.write(guarded("COMPLEX_SYSTEM_NATS_DEVICE_PRESS_4", "COMPLEX_SYSTEM_NATS_DEVICE_PRESS_5"))

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "FASTIOT_NATS_PASSWORD": BROKER_PASSWORD}


nats_server = server_fixture(GuardedNatsServer)


class DefaultNatsServer(NatsServer):
    """A broker as it comes: a message may have one megabyte."""

    def prepare(self) -> None:
        (self.directory / "nats.conf").write_text(f'listen: "127.0.0.1:{self.port}"\n')


default_nats_server = server_fixture(DefaultNatsServer)
mongo_server = server_fixture(MongoServer)
maria_server = server_fixture(MariaServer)
mlflow_server = server_fixture(MlflowServer)


class ClientsMlflowServer(MlflowServer):
    """The server of the clients' release (3.5.1), which keeps the alias of a version that is deleted (mlflow/mlflow#24825)."""

    @override
    def command(self) -> list[str]:
        return [sys.executable, *super().command()[1:]]


clients_mlflow_server = server_fixture(ClientsMlflowServer)


@pytest.fixture(autouse=True)
def _mlflows_address(request: pytest.FixtureRequest) -> None:
    """Trackers give MLflow an address for the whole process, which may be that of another test's server: it is this test's again."""
    if (mlflow := sys.modules.get("mlflow")) and "mlflow_server" in request.fixturenames:
        address = request.getfixturevalue("mlflow_server").url
        mlflow.set_tracking_uri(address)
        mlflow.set_registry_uri(address)


@pytest.fixture
def make_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings that point to the given servers; keyword arguments are fields of ``Settings``."""

    def make(*servers: Server, **fields: Any) -> Settings:
        for server in servers:
            for name, value in server.environment().items():
                monkeypatch.setenv(name, value)
        folders = {"wandb_dir": str(tmp_path / "wandb"), "outbox_dir": str(tmp_path / "outbox")}
        return Settings(**{"request_timeout": 10.0, **folders, **fields})

    return make


@pytest.fixture
def dataset() -> Dataset:
    """The lab data set."""
    return Dataset.load()


@pytest.fixture
def laboratory() -> Laboratory:
    return Laboratory(seed=7)


@pytest.fixture
async def tester(nats_server: Server, make_settings: Callable[..., Settings]) -> AsyncIterator[TesterService]:
    """A client on the broker."""
    async with running(TesterService, make_settings(nats_server)) as service:
        yield service


@pytest.fixture
def fields() -> dict[str, Any]:
    """The fields of ``settings`` that a module wants otherwise; it overrides this fixture."""
    return {}


@pytest.fixture
def settings(
    nats_server: Server,
    mongo_server: Server,
    mlflow_server: Server,
    make_settings: Callable[..., Settings],
    fields: dict[str, Any],
) -> Settings:
    """Settings of a deployment with MongoDB; database, experiment and model names are of the test's own."""
    name = f"t{uuid.uuid4().hex[:8]}"
    own = {"mongo_name": name, "mlflow_experiment": name, "model_prefix": name, **fields}
    return make_settings(nats_server, mongo_server, mlflow_server, **own)


@pytest.fixture
async def ear(settings: Settings) -> AsyncIterator[Ear]:
    """Hears what is announced."""
    async with running(Ear, settings) as service:
        yield service


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[None]:
    """The database service of ``settings``, empty."""
    from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService

    async with running(DatabaseMongoService, settings):
        yield
