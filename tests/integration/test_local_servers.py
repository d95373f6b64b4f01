"""The servers of a local run: beside others of their kind, with accounts, and on data of earlier releases."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import mariadb
import mlflow
import psutil
import pytest
from mlflow import MlflowClient
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from complex_system.domain.dataset import Dataset
from complex_system.errors import StartError
from complex_system.local.credentials import USER
from complex_system.local.servers import MariaServer, MlflowServer, MongoServer, NatsServer, Server
from complex_system.local.servers import mlflow as mlflow_server
from complex_system.settings import Settings
from complex_system.storage.maria.store import MariaDataStore
from complex_system.storage.mongo.store import MongoDataStore
from support import started


def test_mariadb_leaves_the_temporary_tables_of_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("TMPDIR", str(shared))
    theirs = {shared / "#sql-temptable-6beb-1-3.MAI", shared / "#sql-temptable-6beb-1-3.MAD"}
    for path in theirs:
        path.touch()
    with started(MariaServer(tmp_path / "mariadb", port=0)):
        assert theirs <= set(shared.iterdir())


# Accounts


def test_a_locked_broker_asks(tmp_path: Path) -> None:
    with started(NatsServer(tmp_path / "nats", port=0, asks=True)) as server:
        assert _greet(server.port, {"user": USER, "pass": server.password}) == b"PONG"
        assert b"Authorization Violation" in _greet(server.port, {})
        assert b"Authorization Violation" in _greet(server.port, {"user": USER, "pass": "another"})


def _greet(port: int, account: dict[str, str]) -> bytes:
    """Return the broker's answer to a client."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, connection.makefile("rb") as lines:
        lines.readline()  # INFO
        connection.sendall(f"CONNECT {json.dumps({'verbose': False, **account})}\r\nPING\r\n".encode())
        return lines.readline().strip()


@pytest.mark.long
def test_mongodb_asks_also_on_data_that_were_written_without_accounts(tmp_path: Path, dataset: Dataset) -> None:
    folder = tmp_path / "mongodb"
    with started(MongoServer(folder, port=0)) as server, MongoClient[Any]("127.0.0.1", server.port) as client:
        client["kept"]["records"].insert_one({"_id": "A1"})
    for _ in range(2):  # the second start knows the user
        with started(MongoServer(folder, port=0, asks=True)) as server:
            with MongoClient[Any]("127.0.0.1", server.port) as stranger, pytest.raises(OperationFailure, match="auth"):
                stranger["kept"]["records"].find_one()
            with _mongo(server) as client:
                assert client["kept"]["records"].find_one() == {"_id": "A1"}
                with pytest.raises(OperationFailure, match="not authorized"):
                    client["admin"].command("createUser", "another", pwd="secret", roles=["root"])
            _store_works(MongoDataStore(dataset, Settings.of(server.environment())))


def _mongo(server: Server) -> MongoClient[Any]:
    return MongoClient("127.0.0.1", server.port, username=USER, password=server.password)


@pytest.mark.long
def test_mariadb_asks_also_on_data_that_were_written_without_accounts(tmp_path: Path, dataset: Dataset) -> None:
    folder = tmp_path / "mariadb"
    with started(MariaServer(folder, port=0)) as server:
        _maria(server, "CREATE DATABASE kept", user="root")
        _maria(server, "CREATE DATABASE another", user="root")
        _maria(server, "CREATE TABLE kept.records (id INT)", user="root")
    for _ in range(2):
        server = MariaServer(folder, port=0, asks=True)
        server.database = "kept"
        with started(server):
            for user, password in (("root", ""), ("root", server.password), (USER, ""), ("", "")):
                with pytest.raises(mariadb.OperationalError, match="Access denied|not allowed"):
                    _maria(server, "SELECT 1", user=user, password=password)
            own = {"user": USER, "password": server.password}
            assert _maria(server, "SELECT COUNT(*) FROM kept.records", **own) == [(0,)]
            for refused in (
                "SELECT User FROM mysql.global_priv",
                "CREATE TABLE another.records (id INT)",
                f"SELECT 1 INTO OUTFILE '{folder}/data/kept/x'",
                "CREATE USER another",
            ):
                with pytest.raises(mariadb.Error, match=r"denied|command"):
                    _maria(server, refused, **own)
            _store_works(MariaDataStore(dataset, Settings.of({**server.environment(), "COMPLEX_SYSTEM_MARIA_NAME": "kept"})))
            # Its owner needs no password at the socket file, which lies in a folder of his own.
            at_socket = str(folder / server.socket_name)
            assert _maria(server, "SELECT CURRENT_USER()", user="root", unix_socket=at_socket) == [("root@localhost",)]
            files = folder / "files"
            reach = "SELECT @@secure_file_priv, @@local_infile, @@bind_address"
            assert _maria(server, reach, user="root", unix_socket=at_socket) == [(f"{files}/", 0, "127.0.0.1")]
            assert (list(files.iterdir()), files.stat().st_mode & 0o077) == ([], 0)
    assert folder.joinpath("accounts.sql").stat().st_mode & 0o077 == 0


def _maria(server: Server, statement: str, **how: str) -> list[Any]:
    where = {} if "unix_socket" in how else {"host": "127.0.0.1", "port": server.port}
    connection = mariadb.connect(**where, **how)
    try:
        cursor = connection.cursor()
        cursor.execute(statement)
        connection.commit()
        return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def _store_works(store: Any) -> None:
    async def use() -> None:
        await store.open()
        try:
            await store.counts()
        finally:
            await store.close()

    asyncio.run(use())


# MLflow


def test_mlflow_asks_for_everything_but_its_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "mlflow"
    with started(MlflowServer(folder, port=0, asks=True)) as server:
        credentials = (USER, server.password)
        search = "/api/2.0/mlflow/experiments/search?max_results=5"
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            assert http.get("/health").status_code == 200
            for path in ("/", search, "/api/2.0/mlflow-artifacts/artifacts", "/ajax-api/3.0/mlflow/assistant/config"):
                assert http.get(path).status_code == 401, path
                assert http.get(path, auth=(USER, "another")).status_code == 401, path
            public = http.get("/api/3.0/mlflow/server-info")
            assert public.status_code == 200
            assert not [secret for secret in (server.password, str(folder), "sqlite") if secret in public.text]
            assert http.get(search, auth=credentials).status_code == 200
            assert http.get("/", auth=credentials).status_code == 200
            assert http.get(search, auth=credentials, headers={"Host": "attacker.example"}).status_code == 403
            origin = {"Origin": "https://attacker.example"}
            created = http.post("/api/2.0/mlflow/experiments/create", auth=credentials, headers=origin, json={"name": "x"})
            assert created.status_code == 403
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        # Artifacts go to the server of the process, whichever a client has.
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(server.url)
        request.addfinalizer(lambda: mlflow.set_tracking_uri(before))
        client = MlflowClient(tracking_uri=server.url, registry_uri=server.url)
        run = client.create_run(client.create_experiment("locked"))
        client.log_text(run.info.run_id, "kept", "note.txt")
        assert [entry.path for entry in client.list_artifacts(run.info.run_id)] == ["note.txt"]


@pytest.mark.long
def test_mlflow_goes_on_with_the_database_of_the_older_server(tmp_path: Path) -> None:
    """What MLflow 3.5.1's server wrote is there, the model's alias too, and the old file is kept."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    store = f"sqlite:///{folder / 'mlflow.db'}"
    old = MlflowClient(tracking_uri=store, registry_uri=store)  # the client's own release writes the file
    run = old.create_run(old.create_experiment("lab", artifact_location="mlflow-artifacts:/1")).info.run_id
    old.log_metric(run, "rmse", 14.5)
    old.create_registered_model("lab-lightgbm")
    old.create_model_version("lab-lightgbm", "mlflow-artifacts:/1/model", run)
    old.set_registered_model_alias("lab-lightgbm", "champion", "1")
    for each in (old._tracking_client.store, old._get_registry_client().store):
        each._dispose_engine()  # MLflow's client keeps connections open, and Python 3.13 tells of them
    assert not [each.path for each in psutil.Process().open_files() if each.path.startswith(str(folder))]
    with started(MlflowServer(folder, port=0)) as server:
        with httpx.Client(base_url=server.url, trust_env=False) as http:  # open to programs, not to pages of others
            search = "/api/2.0/mlflow/experiments/search?max_results=1"
            assert http.get(search).status_code == 200
            assert http.get(search, headers={"Host": "attacker.example"}).status_code == 403
            answer = http.post(
                "/api/2.0/mlflow/experiments/create", headers={"Origin": "https://attacker.example"}, json={"name": "x"}
            )
            assert answer.status_code == 403
        new = MlflowClient(tracking_uri=server.url, registry_uri=server.url)
        assert new.get_run(run).data.metrics == {"rmse": 14.5}
        assert new.get_model_version_by_alias("lab-lightgbm", "champion").run_id == run
        new.set_tag(run, "seen", "by the new server")
    assert len(list(folder.glob("mlflow-*.db"))) == 1


def test_a_missing_mlflow_server_is_named_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_server, "ENVIRONMENT", tmp_path / ".venv-mlflow")
    with pytest.raises(StartError, match=r"not installed in .*/\.venv-mlflow: `fiot run` and `make install`"):
        MlflowServer(tmp_path / "mlflow", port=0).start()


def test_an_mlflow_server_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("mlflow==0.0.0.0")
    monkeypatch.setattr(mlflow_server, "_CONSTRAINTS", constraints)
    with pytest.raises(StartError, match="cannot be installed"):
        mlflow_server.install_server(said.append, tmp_path / "env")
    assert "once" in said[0]
    assert not (tmp_path / "env" / ".installed").exists()
