"""Who comes without credentials, or with wrong ones, gets nowhere: broker, both databases, REST."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import nats.errors
import pymongo
import pytest
from nats.aio.client import Client

from certificates import write_certificates
from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import StoreUnavailableError
from complex_system.healthcheck import ask_health
from complex_system.http.server import RestServer
from complex_system.local.probe import ProbeError, predict, rest_client
from complex_system.local.servers import HOST, MariaServer, MongoServer, NatsServer
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.permissions import SERVICES
from complex_system.messaging.users import authorization, broker_users
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.engine import PredictionEngine
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.rest.app import make_app
from complex_system.settings import Settings
from complex_system.storage.maria.pool import MariaConnections
from complex_system.storage.maria.store import MariaDataStore
from complex_system.storage.mongo.store import MongoDataStore
from models import MemorySource
from support import TesterService, running, started

ROOT = Path(__file__).parents[2]
USER, PASSWORD = "complex_system", "Zq81hgT3kLw0s5"
WRONG = [{}, {"user": USER, "password": "another"}, {"user": "root", "password": PASSWORD}]
NAMES = ["nothing", "a wrong password", "a wrong user"]


# Broker


class DeployedNats(NatsServer):
    """A broker with the configuration that the deployments ship, moved to a free port and a folder of its own."""

    tls = ""

    def prepare(self) -> None:
        shipped = (ROOT / "deployments" / "mongo" / "nats.conf").read_text(encoding="utf-8")
        moved = {
            '"0.0.0.0:4222"': f'"{HOST}:{self.port}"',
            'http: "127.0.0.1:8222"': f'http: "{HOST}:-1"',
            '"/data"': f'"{self.directory}"',
        }
        for old, new in moved.items():
            assert old in shipped
            shipped = shipped.replace(old, new)
        (self.directory / "nats.conf").write_text(shipped + self.tls)
        users = broker_users(SERVICES)
        passwords = dict.fromkeys(("FASTIOT_NATS_PASSWORD", *(user.variable for user in users)), PASSWORD)
        (self.directory / "users.conf").write_text(authorization(users, {**passwords, "FASTIOT_NATS_USER": USER}))


@pytest.fixture(scope="module")
def nats_credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTIOT_NATS_USER", USER)
        patch.setenv("FASTIOT_NATS_PASSWORD", PASSWORD)
        yield


@pytest.fixture(scope="module")
def locked_nats(nats_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with started(DeployedNats(tmp_path_factory.mktemp("nats"), port=0)) as server:
        yield server


async def _try_nats(server: NatsServer, **options: Any) -> None:
    client = Client()

    async def ignore(_: Exception) -> None:
        return

    try:
        await client.connect(server.url, allow_reconnect=False, error_cb=ignore, connect_timeout=5, **options)
        await client.flush()
    finally:
        await client.close()


@pytest.mark.parametrize("given", WRONG, ids=NAMES)
async def test_the_broker_refuses(given: dict[str, str], locked_nats: NatsServer) -> None:
    with pytest.raises(nats.errors.Error, match="(?i)authorization"):
        await _try_nats(locked_nats, **given)


async def test_a_service_with_the_deployments_password_is_let_in_and_a_health_check_without_is_not(
    locked_nats: NatsServer, make_settings: Callable[..., Settings]
) -> None:
    known = make_settings(locked_nats, nats_user=USER, nats_password=PASSWORD)
    async with running(TesterService, known) as service:
        host = service.replica.rsplit("-", 1)[0]
        assert await ask_health("tester", known, host, 5) == (True, "ready")
        stranger = make_settings(locked_nats, nats_user="", nats_password="")
        well, text = await ask_health("tester", stranger, host, 1)
        assert not well
        assert "No connection to the broker" in text
    well, text = await ask_health("tester", known, host, 5)
    assert not well
    assert "No service answers" in text


async def test_a_service_that_fails_is_not_healthy(nats_server: NatsServer, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(nats_server, nats_user="")
    async with running(TesterService, settings) as service:
        await service.set_state("failing", "the disk is full")
        host = service.replica.rsplit("-", 1)[0]
        assert await ask_health("tester", settings, host, 5) == (False, "failing: the disk is full")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


async def test_with_tls_the_broker_is_reached_by_who_knows_its_ca(
    certificates: Path, nats_credentials: None, tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    server = DeployedNats(tmp_path, port=0)
    server.tls = f'tls {{ cert_file: "{certificates / "cert.pem"}", key_file: "{certificates / "key.pem"}" }}\n'
    with started(server) as running_server:
        known = make_settings(
            running_server, nats_user=USER, nats_password=PASSWORD, nats_tls_ca=str(certificates / "ca.pem")
        )
        connection = await asyncio.wait_for(ServiceConnection.open(known, "tester"), 10)
        await connection.settle()
        await connection.close()
        fooled = known.copy(update={"nats_tls_ca": str(certificates / "other.pem")})
        well, _ = await ask_health("tester", fooled, "anywhere", 1)
        assert not well


# Databases


class LockedMongo(MongoServer):
    """MongoDB's protocol with users, as the public image starts it."""

    def command(self) -> list[str]:
        return [*super().command(), "--auth"]


@pytest.fixture(scope="module")
def locked_mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    folder = tmp_path_factory.mktemp("mongo")
    with (
        started(MongoServer(folder, port=0)) as open_server,
        pymongo.MongoClient(open_server.url, serverSelectionTimeoutMS=10_000) as client,
    ):
        client.admin.command("createUser", USER, pwd=PASSWORD, roles=["root"])
    with started(LockedMongo(folder, port=0)) as server:
        yield server


async def test_mongodb_refuses_and_lets_in(
    locked_mongo: MongoServer, make_settings: Callable[..., Settings], dataset: Dataset, laboratory: Laboratory
) -> None:
    settings = make_settings(locked_mongo)
    for given in WRONG:
        credentials = {"mongo_user": given.get("user", ""), "mongo_password": given.get("password", "")}
        stranger = MongoDataStore(dataset, settings.copy(update=credentials))
        with pytest.raises(StoreUnavailableError):
            await stranger.open()
        await stranger.close()
    store = MongoDataStore(dataset, settings.copy(update={"mongo_user": USER, "mongo_password": PASSWORD}))
    await store.open()
    assert (await store.save_raw([laboratory.complete_record()])).inserted == 1
    await store.close()


@pytest.fixture(scope="module")
async def locked_maria(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MariaServer]:
    if shutil.which("mariadb-install-db") is None:
        pytest.fail("mariadb-server is not installed")
    with started(MariaServer(tmp_path_factory.mktemp("maria"), port=0)) as server:
        root = MariaConnections(
            Settings(maria_host=HOST, maria_port=server.port, maria_user="root", maria_password="", maria_name="mysql")
        )
        root.open()

        def lock(connection: Any) -> None:
            cursor = connection.cursor()
            # As the public image does with MARIADB_DATABASE, MARIADB_USER, MARIADB_PASSWORD and MARIADB_ROOT_PASSWORD.
            cursor.execute("CREATE DATABASE KIOptiPackDb")
            cursor.execute(f"CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'")
            cursor.execute(f"GRANT ALL ON KIOptiPackDb.* TO '{USER}'@'%'")
            for host in ("localhost", "127.0.0.1"):
                cursor.execute(f"ALTER USER IF EXISTS 'root'@'{host}' IDENTIFIED BY '{PASSWORD}root'")

        await root.run(lock)
        root.close()
        yield server


async def test_mariadb_refuses_and_lets_in_with_rights_for_its_own_database_alone(
    locked_maria: MariaServer, make_settings: Callable[..., Settings], dataset: Dataset, laboratory: Laboratory
) -> None:
    settings = make_settings(locked_maria)
    for given in WRONG:
        credentials = {"maria_user": given.get("user", "root"), "maria_password": given.get("password", "")}
        stranger = MariaDataStore(dataset, settings.copy(update=credentials))
        with pytest.raises(StoreUnavailableError, match="Access denied"):
            await stranger.open()
        await stranger.close()
    known = settings.copy(update={"maria_user": USER, "maria_password": PASSWORD})
    store = MariaDataStore(dataset, known)
    await store.open()
    assert (await store.save_raw([laboratory.complete_record()])).inserted == 1
    await store.close()
    elsewhere = MariaDataStore(dataset, known.copy(update={"maria_name": "another"}))
    with pytest.raises(StoreUnavailableError, match="denied"):
        await elsewhere.open()
    await elsewhere.close()


# REST


@pytest.fixture
async def locked_rest(dataset: Dataset) -> AsyncIterator[httpx.AsyncClient]:
    source = MemorySource()
    source.publish(dataset, 1.0)
    models = ModelManager(source, Pipeline(dataset))
    await models.refresh()
    server = RestServer(make_app(PredictionEngine(models), dataset, api_key=PASSWORD), HOST, 0)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, timeout=10) as client:
        yield client
    await server.stop()


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-API-Key": "another"}, {"X-API-Key": PASSWORD[:-1]}, {"Authorization": f"Basic {PASSWORD}"}, {"X-API-Key": "ü"}],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/predict"), ("GET", "/model"), ("GET", "/"), ("GET", "/docs"), ("GET", "/metrics")]
)
async def test_rest_refuses(locked_rest: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]) -> None:
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = await locked_rest.request(method, path, headers=sent, content=b'{"records": []}')
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert error["code"] == "unauthorized"
    assert "X-API-Key" in error["message"]
    assert PASSWORD not in answer.text


@pytest.mark.parametrize("headers", [{"X-API-Key": PASSWORD}, {"Authorization": f"Bearer {PASSWORD}"}])
async def test_rest_lets_in(locked_rest: httpx.AsyncClient, laboratory: Laboratory, headers: dict[str, str]) -> None:
    record = laboratory.complete_record()
    answer = await locked_rest.post("/predict", json={"records": [record]}, headers=headers)
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 1


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/login"])
async def test_probes_and_the_login_are_open(locked_rest: httpx.AsyncClient, path: str) -> None:
    answer = await locked_rest.get(path)
    assert answer.status_code == 200
    assert "memory-lightgbm" not in answer.text


async def test_the_documentation_says_that_a_key_is_needed(locked_rest: httpx.AsyncClient) -> None:
    schema = (await locked_rest.get("/openapi.json", headers={"X-API-Key": PASSWORD})).json()
    assert schema["components"]["securitySchemes"]["key"]["name"] == "X-API-Key"
    assert schema["paths"]["/predict"]["post"]["security"] == [{"key": []}]
    for path in ("/livez", "/readyz"):
        assert "security" not in schema["paths"][path]["get"], path


async def test_the_local_run_sends_its_key_and_does_not_show_it(
    locked_rest: httpx.AsyncClient, laboratory: Laboratory
) -> None:
    url, record = str(locked_rest.base_url).rstrip("/"), laboratory.complete_record()
    async with rest_client(PASSWORD) as known:
        command = "\n".join((await predict(known, url, record, key_in_shell="$COMPLEX_SYSTEM_API_KEY")).curl)
    assert PASSWORD not in command
    assert '-H "X-API-Key: $COMPLEX_SYSTEM_API_KEY"' in command
    async with rest_client("") as stranger:
        with pytest.raises(ProbeError, match="401"):
            await predict(stranger, url, record)
