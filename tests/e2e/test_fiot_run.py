"""The whole system by ``fiot run``, as a newcomer starts it: real processes, real servers, a served prediction."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from complex_system.domain.laboratory import BEST_POSSIBLE
from complex_system.local.servers import ANY_PORT
from runs import FIOT, ROOT, api_key, fiot_run

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
                assert run.processes() == []
                done[deployment] = Cycle(run.status(), run.said)
        return done[deployment]

    return run_once


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("deployment", "database", "server"), [
    ("mongo", "database_mongo", "mongodb"),
    ("maria", "database_maria", "mariadb"),
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
    assert {result["framework"] for result in results} == {"lightgbm", "pytorch", "tensorflow"}
    for result in results:
        assert BEST_POSSIBLE.rmse * 0.9 < result["rmse"] <= 15.1, result
    assert results == sorted(results, key=lambda result: result["rmse"])
    champion = {name: results[0][name] for name in ("model", "version", "framework", "rmse")}
    assert status["champion"] == champion
    first = status["seconds_to_first_prediction"]
    record_property(f"fiot run {deployment}", f"first prediction by the champion after {first:.1f} s")
    # The goal is 90 s on an idle laptop. A loaded machine may need twice that; more means that something waits in vain.
    assert 0 < first < 180
    assert "curl -s http://127.0.0.1:" in said
    assert f"The full cycle of '{deployment}' worked" in said


@pytest.mark.timeout(660)
def test_a_second_run_keeps_data_and_champion_and_ends_when_asked(base: Path, cycle: Callable[[str], Cycle]) -> None:
    """Runs on what the full cycle left; Ctrl-C ends it, and nothing stays behind."""
    before = cycle("mongo").status
    assert before["champion"]
    with fiot_run(base, "mongo", **ONE_ROUND["mongo"]) as run:
        status = run.eventually(lambda: (s := run.status())["state"] == "running" and s, 180)
        champion, expected = status["champion"], before["champion"]
        assert (champion["model"], champion["version"]) == (expected["model"], expected["version"])
        assert champion["rmse"] == pytest.approx(expected["rmse"])  # MLflow keeps ten digits of it
        assert status["records"]["raw"] >= before["records"]["raw"]
        serving = status["services"]["ml_serving_mlflow"]
        assert serving["state"] == "ready"
        model = httpx.get(f"{serving['url']}/model", headers={"X-API-Key": api_key("mongo")}).json()["model"]
        assert (model["name"], model["version"]) == (expected["model"], expected["version"])

        victim = status["services"]["ml_serving_mlflow"]["pid"]
        os.kill(victim, signal.SIGKILL)
        run.eventually(lambda: run.status()["services"]["ml_serving_mlflow"]["restarts"] == 1)
        run.eventually(lambda: run.status()["services"]["ml_serving_mlflow"]["state"] == "ready")

        with fiot_run(base, "mongo", "--once") as second:
            assert second.wait(30) == 1
            assert "runs already" in (base / "mongo.out").read_text()
        assert run.process.poll() is None

        run.process.send_signal(signal.SIGINT)
        assert run.wait(60) == 0, run.said
        assert run.processes() == []
        assert run.status()["state"] == "done"


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 0.2), (signal.SIGTERM, 3.0)])
def test_a_signal_during_the_start_leaves_no_process_behind(tmp_path: Path, number: signal.Signals, seconds: float) -> None:
    with fiot_run(tmp_path, "integration_test") as run:
        run.eventually(lambda: run.status()["state"] == "starting")
        time.sleep(seconds)
        run.process.send_signal(number)
        assert run.wait(60) == 0, run.said
        assert run.processes() == []


def test_what_a_killed_run_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    with fiot_run(tmp_path, "integration_test") as run:
        run.eventually(lambda: len(run.processes()) >= 2)
        run.process.kill()
        run.process.wait()
        left = run.processes()
        assert left
        with fiot_run(tmp_path, "integration_test", "--once") as following:
            assert following.wait(120) == 0, following.said
            assert "that an earlier run had left behind" in following.said
        assert not [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "There is no deployment 'nowhere'; this project has integration_test, maria, mongo."),
        (("mongo", "--records", "-5"), "-5"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
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
        "sys.argv = ['fiot', 'run', 'integration_test', '--once']; from fastiot.cli.fiot import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
                          env={**os.environ, **ANY_PORT, "COMPLEX_SYSTEM_RUN_DIR": str(tmp_path)})  # fmt: skip
    assert done.returncode == 1
    assert "mariadb-server" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_scenario_that_there_is_not_is_said_in_a_sentence(tmp_path: Path) -> None:
    with fiot_run(tmp_path, "mongo", "--scenario", "storm") as run:
        assert run.wait(60) == 1
        assert "There is no scenario 'storm'; there are shift, concept, noise, missing, new_category." in run.said
