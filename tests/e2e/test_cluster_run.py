"""``fiot run --cluster``: a round whose trainings use the Ray cluster of the run."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest

from runs import FiotRun, fiot_run


def listening_beyond_loopback(run: FiotRun) -> set[str]:
    found = set()
    for process in run.processes():
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        open_doors = [each for each in connections if each.status == psutil.CONN_LISTEN]
        found |= {
            f"{process.name()} {each.laddr}" for each in open_doors if each.laddr.ip not in ("127.0.0.1", "::ffff:127.0.0.1")
        }
    return found


@pytest.mark.long
@pytest.mark.timeout(660)
def test_a_round_trains_on_the_cluster_of_the_run_and_nothing_stays_behind(tmp_path: Path) -> None:
    # So few records are searched on and cross-validated in the first training already.
    variables = {"COMPLEX_SYSTEM_TRAINERS": "lightgbm", "COMPLEX_SYSTEM_LIGHTGBM_TRIALS": "8"}
    with fiot_run(tmp_path, "mongo", "--cluster", "2", "--data", "films", "--target", "Ausformung", **variables) as run:
        log = run.directory / "logs" / "ml_lightgbm_regression_mlflow.log"
        said = re.compile(r"Connected to Ray at 127\.0\.0\.1:\d+: (\d) nodes")
        run.eventually(lambda: log.is_file() and said.search(log.read_text()), 400)
        assert set(run.status()["infrastructure"]) == {"nats", "mongodb", "mlflow", "ray", "ray-1", "ray-2"}
        assert listening_beyond_loopback(run) == set()
        champion = run.eventually(lambda: run.status().get("champion"), 200)
        assert champion["model"]
        # Tasks ran on the workers, whose nodes have the only CPUs.
        logs = [path for number in (1, 2) for path in (run.directory / f"ray-{number}").glob("session_2*/logs/worker-*.err")]
        assert logs
        run.process.terminate()
        assert run.wait(60) == 0, run.said
        assert run.left() == []
    assert not any(path.is_socket() for path in tmp_path.rglob("*"))
