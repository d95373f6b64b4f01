"""The three hosts of docs/three-hosts: their brokers form an encrypted cluster, and replicas on two hosts share the work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from certificates import write_certificates
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import ComplexSystemError, NobodyListensError
from complex_system.local.processes import Child
from complex_system.local.servers import HOST, Server, free_port, program, reachable
from complex_system.messaging import subjects
from complex_system.messaging.clients import SystemClient
from complex_system.messaging.handlers import answers
from complex_system.messaging.ingest.publisher import IngestClient
from complex_system.messaging.ingest.streams import IngestStreams
from complex_system.messaging.permissions import SERVICES
from complex_system.messaging.service import SystemService
from complex_system.messaging.users import authorization, broker_users
from complex_system.protocol.base import Request
from complex_system.settings import Settings
from complex_system_services.database_mongo.database_mongo_service import DatabaseMongoService
from support import eventually, running

EXAMPLE = Path(__file__).parents[2] / "docs" / "three-hosts"
HOSTS = ("data", "training", "serving")
WHO = Request("test-who", Any, Any)
USER, PASSWORD, CLUSTER_PASSWORD = "operator", "k3Jd92hsYq", "c7Gs63kQpa"


class ReplicaService(SystemService):
    """Says which replica answers."""

    @answers(WHO)
    async def who(self, _: Any) -> str:
        return self.replica


@pytest.fixture(scope="module")
def brokers() -> list[Child]:
    """The brokers of the cluster, once it is started."""
    return []


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, certificates: Path, brokers: list[Child]) -> Iterator[list[int]]:
    """Three brokers from the example's configuration, with TLS and users; their client ports."""
    folder = tmp_path_factory.mktemp("cluster")
    ports = [free_port() for _ in HOSTS]
    routes = [free_port() for _ in HOSTS]
    binary = program("nats-server")
    assert binary is not None
    children = brokers
    for i, name in enumerate(HOSTS):
        text = (EXAMPLE / name / "nats.conf").read_text(encoding="utf-8")
        moved = {"0.0.0.0:4222": f"{HOST}:{ports[i]}", "0.0.0.0:6222": f"{HOST}:{routes[i]}",
                 "127.0.0.1:8222": f"{HOST}:-1", '"/data"': f'"{folder / name}"', "/etc/nats/certs": str(certificates)}  # fmt: skip
        for old, new in moved.items():
            assert old in text
            text = text.replace(old, new)
        (folder / name).mkdir()
        path = folder / name / "nats.conf"
        path.write_text(text, encoding="utf-8")
        users = broker_users(SERVICES)
        (folder / name / "users.conf").write_text(authorization(users), encoding="utf-8")
        first, second = (routes[k] for k in range(3) if k != i)
        environment = {
            "NATS_SERVER_NAME": name,
            "FASTIOT_NATS_USER": USER,
            **dict.fromkeys(("FASTIOT_NATS_PASSWORD", *(user.variable for user in users)), PASSWORD),
            "NATS_CLUSTER_PASSWORD": CLUSTER_PASSWORD,
            "NATS_ROUTE_1": f"nats-route://complex_system:{CLUSTER_PASSWORD}@{HOST}:{first}",
            "NATS_ROUTE_2": f"nats-route://complex_system:{CLUSTER_PASSWORD}@{HOST}:{second}",
        }
        child = Child(name, [binary, "-c", str(path)], folder / f"{name}.log", env=environment)
        child.start()
        children.append(child)
    try:
        deadline = time.monotonic() + 60
        for child, port in zip(children, ports, strict=True):
            while not reachable(HOST, port):
                assert child.alive, f"{child.name} ended:\n{child.tail()}"
                assert time.monotonic() < deadline, f"{child.name} does not listen:\n{child.tail()}"
                time.sleep(0.05)
        yield ports
    finally:
        for child in children:
            child.stop()


def test_the_example_has_one_broker_configuration() -> None:
    assert len({(EXAMPLE / name / "nats.conf").read_text(encoding="utf-8") for name in HOSTS}) == 1


async def test_neither_clients_nor_brokers_are_let_in_without_encryption_and_credentials(
    cluster: list[int], certificates: Path
) -> None:
    trusted = ssl.create_default_context(cafile=str(certificates / "ca.pem"))

    async def ignore(_: Exception) -> None:
        return

    credentials: list[dict[str, Any]] = [{}, {"user": USER, "password": "another"}]
    for options in credentials:
        client = Client()
        with pytest.raises(NatsError, match="(?i)authorization"):
            await client.connect(
                f"tls://{HOST}:{cluster[0]}", tls=trusted, allow_reconnect=False, error_cb=ignore, **options
            )
        await client.close()
    with socket.create_connection((HOST, cluster[0]), timeout=5) as plain:
        assert b'"tls_required":true' in plain.recv(4096)
        plain.sendall(b'CONNECT {"user":"%s","pass":"%s","verbose":true}\r\nPING\r\n' % (USER.encode(), PASSWORD.encode()))
        with contextlib.suppress(ConnectionError):
            assert b"PONG" not in plain.recv(4096)


async def test_a_client_whose_encrypted_connection_is_lost_while_it_has_something_to_send_closes_in_order(
    cluster: list[int], certificates: Path, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(nats_host=HOST, nats_port=cluster[0], nats_user=USER, nats_password=PASSWORD,
                             nats_tls_ca=str(certificates / "ca.pem"))  # fmt: skip
    client = await SystemClient.open(settings, "leaver")
    transport: Any = client.broker.client._transport
    below = transport._bare_io_writer.transport
    for _ in range(2):  # as nats-py does while it reconnects; the second time asyncio forgets what it wrote to
        transport.close()
    with contextlib.suppress(ConnectionError):
        transport.write(b"PING\r\n")
    client.broker.client._pending, client.broker.client._pending_data_size = [b"PING\r\n"], 6
    await client.close()
    assert below.is_closing()


async def test_replicas_on_two_hosts_share_what_a_third_asks(
    cluster: list[int], certificates: Path, make_settings: Callable[..., Settings]
) -> None:
    on = [make_settings(nats_host=HOST, nats_port=p, nats_user=USER, nats_password=PASSWORD, service_id=n,
                        nats_tls_ca=str(certificates / "ca.pem"))
          for p, n in zip(cluster, HOSTS, strict=True)]  # fmt: skip
    async with (
        running(ReplicaService, on[0]),
        running(ReplicaService, on[1]),
        await SystemClient.open(on[2], "tester") as client,
    ):

        async def heard() -> set[str]:
            answers = await asyncio.gather(*(client.ask(WHO, {}, 5) for _ in range(20)), return_exceptions=True)
            return {answer for answer in answers if isinstance(answer, str)}

        async def both() -> bool:
            return await heard() == {"data", "training"}

        await eventually(both)


@pytest.mark.long
async def test_a_cluster_keeps_what_is_published_on_three_brokers_and_survives_the_loss_of_one(
    cluster: list[int],
    certificates: Path,
    brokers: list[Child],
    mongo_server: Server,
    make_settings: Callable[..., Settings],
) -> None:
    name = f"c{uuid4().hex[:8]}"
    on = [make_settings(mongo_server, nats_host=HOST, nats_port=port, nats_user=USER, nats_password=PASSWORD,
                        nats_tls_ca=str(certificates / "ca.pem"), mongo_name=name, ingest_replicas=3) for port in cluster]  # fmt: skip
    records = list(Laboratory(seed=2).records(20))
    async with await SystemClient.open(on[0], "publisher") as publisher:
        client = IngestClient(publisher.broker, on[0], "Test")

        async def ready() -> bool:
            # The brokers elect their leader first.
            with contextlib.suppress(NobodyListensError):
                await IngestStreams(publisher.broker.client, on[0]).ensure()
                return True
            return False

        async def published(part: list[Record]) -> bool:
            with contextlib.suppress(NobodyListensError):
                await client.publish(part)
                return True
            return False

        await eventually(ready, 60)
        await eventually(lambda: published(records[:10]), 60)
        brokers[2].signal_group(signal.SIGKILL)
        await eventually(lambda: not brokers[2].alive)
        await eventually(lambda: published(records[10:]), 60)
        async with running(DatabaseMongoService, on[1].copy(update={"nats_user": "database_mongo"})):

            async def saved() -> bool:
                # The brokers tell each other of the new service in their own time.
                with contextlib.suppress(ComplexSystemError):
                    return bool(await publisher.ask(subjects.GET_ALL_RAW, {}) == records)
                return False

            await eventually(saved, 90)
