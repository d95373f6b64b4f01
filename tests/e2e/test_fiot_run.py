"""The whole system by ``fiot run``, as a newcomer starts it: real processes, real servers, a served prediction."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from complex_system.domain.laboratory import BEST_POSSIBLE
from complex_system.local.servers import ANY_PORT
from runs import FIOT, ROOT, FiotRun, fiot_run, lives

ELEVEN = {
    "dummy_data_generation", "data_processing", "ml_consumer", "ml_lightgbm_regression_mlflow", "ml_pytorch_regression",
    "ml_pytorch_regression_mlflow", "ml_tensorflow_regression_mlflow", "ml_monitoring", "ml_serving", "ml_serving_mlflow",
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


ONE_ROUND = {"mongo": {"COMPLEX_SYSTEM_RETRAIN_GROWTH": "1000"}}
"""On a slow machine the first round begins before all records are there, and a second one is due while the run ends. Where a second
run is compared with the first, there must be none between."""


class Cycle(NamedTuple):
    """What a full cycle left behind."""

    status: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def cycle(base: Path) -> Callable[[str], Cycle]:
    """The full cycle of a deployment, run once by the first test that needs it."""
    done: dict[str, Cycle] = {}

    def run_once(deployment: str) -> Cycle:
        if deployment not in done:
            with fiot_run(base, deployment, "--once", "--timeout", "360", **ONE_ROUND.get(deployment, {})) as run:
                assert run.wait(400) == 0, run.said
                assert run.left() == []
                done[deployment] = Cycle(run.status(), run.said)
        return done[deployment]

    return run_once


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("deployment", "database", "server"), [
    ("mongo", "database_mongo", "mongodb"),
    pytest.param("maria", "database_maria", "mariadb", marks=pytest.mark.long),
])  # fmt: skip
def test_a_full_cycle_ends_with_a_prediction_by_the_champion(
    cycle: Callable[[str], Cycle],
    deployment: str,
    database: str,
    server: str,
    record_property: Callable[[str, object], None],
) -> None:
    status, said = cycle(deployment)
    assert status["state"] == "done"
    assert set(status["infrastructure"]) == {"nats", server, "mlflow"}
    assert set(status["services"]) == {*ELEVEN, database}
    assert status["records"]["raw"] >= 10_000
    assert status["records"]["processed"] + status["records"]["rejected"] >= 10_000
    assert 0.4 < status["records"]["labelled"] / status["records"]["raw"] < 0.6
    results = status["results"]
    assert [result["framework"] for result in results].count("pytorch") == 2
    assert {result["framework"] for result in results} - {"stack"} == {"lightgbm", "pytorch", "tensorflow"}
    for result in results:
        assert BEST_POSSIBLE.rmse * 0.9 < result["rmse"] <= 15.1, result
    assert results == sorted(results, key=lambda result: result["rmse"])
    champion = {name: results[0][name] for name in ("model", "version", "framework", "rmse")}
    assert status["champion"] == champion
    first = status["seconds_to_first_prediction"]
    record_property(f"fiot run {deployment}", f"first prediction by the champion after {first:.1f} s")
    # The goal is 90 s on an idle laptop (79 s were measured). Beside the other half of the tests it took up to 150 s on two cores;
    # much more means that something waits in vain.
    assert 0 < first < 300
    assert "curl -s http://127.0.0.1:" in said
    assert f"The full cycle of '{deployment}' worked" in said


def a_file_is_predicted(base: Path) -> None:
    """``fiot extras predict`` finds the run that goes on, and its key."""
    file = base / "tomorrow.csv"
    file.write_text("material_id;rohwert_1_labormessung;shift\n11111111;3,25;A\n99999999;3,5;B\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "COMPLEX_SYSTEM_API_KEY"}
    done = subprocess.run(
        [FIOT, "extras", "predict", file], cwd=ROOT, env={**environment, "COMPLEX_SYSTEM_RUN_DIR": str(base)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    head, first, second = done.stdout.splitlines()
    assert head == "row,prediction,model,faults"
    assert re.fullmatch(r"1,-?\d+\.\d+,lab-[a-z-]+ v1,", first)
    assert second.startswith("2,,,\"field 'material_id': '99999999' is not one of 00000000")


@pytest.mark.long
@pytest.mark.timeout(660)
def test_a_second_run_keeps_data_and_champion_and_ends_when_asked(base: Path, cycle: Callable[[str], Cycle]) -> None:
    """Runs on what the full cycle left, this time locked; Ctrl-C ends it, and nothing stays behind."""
    before = cycle("mongo").status
    assert before["champion"]
    with fiot_run(base, "mongo", "--locked", **ONE_ROUND["mongo"]) as run:
        status = run.eventually(lambda: (s := run.status())["state"] == "running" and s, 180)
        champion, expected = status["champion"], before["champion"]
        assert (champion["model"], champion["version"]) == (expected["model"], expected["version"])
        assert champion["rmse"] == pytest.approx(expected["rmse"])  # MLflow keeps ten digits of it
        assert status["records"]["raw"] >= before["records"]["raw"]
        serving = status["services"]["ml_serving_mlflow"]
        assert serving["state"] == "ready"
        client = dict(
            line.split("=", 1) for line in (run.directory / "client.env").read_text().splitlines() if line[0] != "#"
        )
        model = httpx.get(f"{serving['url']}/model", headers={"X-API-Key": client["COMPLEX_SYSTEM_API_KEY"]}).json()["model"]
        assert (model["name"], model["version"]) == (expected["model"], expected["version"])
        every_door_asks(run, status, client)
        a_file_is_predicted(base)

        victim = status["services"]["ml_serving_mlflow"]["pid"]
        os.kill(victim, signal.SIGKILL)
        run.eventually(lambda: run.status()["services"]["ml_serving_mlflow"]["restarts"] == 1)
        run.eventually(lambda: run.status()["services"]["ml_serving_mlflow"]["state"] == "ready")

        second = FiotRun(base, "mongo", "--once")  # not fiot_run, which would end what is left of the run: all of it
        try:
            assert second.wait(120) == 1
        finally:
            second.process.kill()
            second.wait(60)
        assert "runs already" in second.said
        assert run.process.poll() is None

        run.process.send_signal(signal.SIGINT)
        assert run.wait(60) == 0, run.said
        assert run.left() == []
        assert run.status()["state"] == "done"


def every_door_asks(run: FiotRun, status: dict[str, Any], client: dict[str, str]) -> None:
    """Who has no password is refused everywhere; client.env, the shown command and the shown link let in."""
    key, page = {"X-API-Key": client["COMPLEX_SYSTEM_API_KEY"]}, status["services"]["ml_monitoring"]["url"]
    experiments = f"{client['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1"
    account = (client["MLFLOW_TRACKING_USERNAME"], client["MLFLOW_TRACKING_PASSWORD"])
    assert httpx.get(experiments).status_code == 401
    assert httpx.get(experiments, auth=account).status_code == 200
    for service in ("ml_serving_mlflow", "ml_serving", "ml_monitoring"):
        url = status["services"][service]["url"] + ("/api/alerts" if service == "ml_monitoring" else "/model")
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers=key).status_code == 200
    with MongoClient("127.0.0.1", int(client["FASTIOT_MONGO_DB_PORT"])) as stranger, pytest.raises(OperationFailure):
        stranger["KIOptiPackDb"].list_collection_names()
    assert _nats_says(client, {}) != b"PONG"
    operator = {"user": client["FASTIOT_NATS_USER"], "pass": client["FASTIOT_NATS_PASSWORD"]}
    assert _nats_says(client, operator) == b"PONG"

    link = re.search(rf"{page}/login\?token=\S+", run.said)
    assert link is not None
    with httpx.Client(follow_redirects=True) as browser:
        assert browser.get(link[0]).url.path == "/"
        assert browser.get(f"{page}/api/alerts").status_code == 200
    command = [line for line in run.said.splitlines() if "repeat it: " in line][-1].partition("repeat it: ")[2]
    assert str(run.directory.resolve()) in command  # the shell reads the key there
    answered = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "predictions" in answered.stdout

    log = (run.directory / "logs" / "runner.log").read_text()
    secrets = [value for name, value in client.items() if name.endswith(("PASSWORD", "KEY"))]
    assert len(secrets) == 4
    assert not [secret for secret in (*secrets, link[0]) if secret in log]
    assert not [secret for secret in secrets if secret in run.said]
    assert run.directory.stat().st_mode & 0o077 == 0


def _nats_says(client: dict[str, str], account: dict[str, str]) -> bytes:
    with socket.create_connection(("127.0.0.1", int(client["FASTIOT_NATS_PORT"])), timeout=10) as connection:
        lines = connection.makefile("rb")
        lines.readline()  # INFO
        connection.sendall(f"CONNECT {json.dumps({'verbose': False, **account})}\r\nPING\r\n".encode())
        said = lines.readline().strip()
        lines.close()
        return said


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 0.2), (signal.SIGTERM, 3.0)])
def test_a_signal_during_the_start_leaves_no_process_behind(tmp_path: Path, number: signal.Signals, seconds: float) -> None:
    with fiot_run(tmp_path, "integration_test") as run:
        run.eventually(lambda: run.status()["state"] == "starting", 150)
        time.sleep(seconds)
        run.process.send_signal(number)
        assert run.wait(120) == 0, run.said
        assert run.left() == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_processes_of_a_killed_run_are_stopped_by_the_next(tmp_path: Path) -> None:
    with fiot_run(tmp_path, "integration_test") as run:
        run.eventually(lambda: len(run.processes()) >= 2, 150)
        run.process.kill()
        run.process.wait()
        left = run.processes()
        assert left
        with fiot_run(tmp_path, "integration_test", "--once") as following:
            assert following.wait(400) == 0, following.said
            assert "that an earlier run had left behind" in following.said
        assert not [process for process in left if lives(process)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "There is no deployment 'nowhere'; this project has integration_test, maria, mongo."),
        (("mongo", "--records", "-5"), "-5"),
    ],
)
def test_a_run_that_cannot_begin_says_why_in_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = subprocess.run([FIOT, "run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "COMPLEX_SYSTEM_RUN_DIR": str(tmp_path)})  # fmt: skip
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_server_program_is_named_with_its_package(tmp_path: Path) -> None:
    """Without mariadbd the run says what to install, and leaves nothing behind."""
    programs = tmp_path / "bin"
    programs.mkdir()
    code = (
        "import shutil, sys; own = shutil.which; "
        "shutil.which = lambda name, *a, **k: None if 'maria' in str(name) else own(name, *a, **k); "
        "sys.argv = ['fiot', 'run', 'integration_test', '--once']; from complex_system.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
                          env={**os.environ, **ANY_PORT, "COMPLEX_SYSTEM_RUN_DIR": str(tmp_path)})  # fmt: skip
    assert done.returncode == 1
    assert "mariadb-server" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_scenario_is_named(tmp_path: Path) -> None:
    with fiot_run(tmp_path, "mongo", "--scenario", "storm") as run:
        assert run.wait(240) == 1
        assert "There is no scenario 'storm'; there are shift, concept, noise, missing, new_category, plant." in run.said
