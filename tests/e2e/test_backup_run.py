"""``fiot extras backup`` of a running deployment, and ``restore`` into an empty one, which then runs and predicts as the first did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from complex_system.local.servers import ANY_PORT
from runs import FIOT, ROOT, FiotRun, api_key, fiot_run

QUICK = {
    "COMPLEX_SYSTEM_TRAINERS": "lightgbm,pytorch-wandb",
    "COMPLEX_SYSTEM_EPOCHS": "10",
    "COMPLEX_SYSTEM_RETRAIN_GROWTH": "1000",
    "COMPLEX_SYSTEM_LIVE_RATE": "50",
}
RECORD = {
    "material_id": "11111111", "datum": "01.02.2026, 12:00:00", "laborant": "TK", "rohwert_1_labormessung": 7.5,
    "rohwert_2_labormessung": 11.25, "rohwert_3_labormessung": 0.75, "aufbereiteter_wert": None,
}  # fmt: skip


def fiot(base: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FASTIOT_", "WANDB_"))}
    environment = {**inherited, **ANY_PORT, "COMPLEX_SYSTEM_RUN_DIR": str(base)}
    return subprocess.run([FIOT, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def predictions(run: FiotRun, deployment: str) -> list[tuple[Any, ...]]:
    """What both serving services predict, and with which models."""
    found: list[tuple[Any, ...]] = []
    for service in ("ml_serving_mlflow", "ml_serving"):
        url = run.eventually(
            lambda service=service: (s := run.status()["services"][service])["state"] == "ready" and s["url"], 120
        )
        with httpx.Client(base_url=url, headers={"X-API-Key": api_key(deployment)}) as client:
            model = client.get("/model").json()["model"]
            value = client.post("/predict", json=[RECORD]).json()
            found.append((model["name"], model["version"], value["predictions"]))
    return found


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("deployment", ["mongo", "maria"])
def test_a_running_deployment_is_copied_and_restored(tmp_path: Path, deployment: str) -> None:
    first, second, backup = tmp_path / "first", tmp_path / "second", tmp_path / "backups" / "monday"
    first.mkdir()
    second.mkdir()
    with fiot_run(first, deployment, "--records", "3000", **QUICK) as run:
        run.eventually(lambda: run.status()["state"] == "running", 300)
        before, expected = run.status(), predictions(run, deployment)
        done = fiot(first, "extras", "backup", deployment, str(backup), "--local")
        assert done.returncode == 0, done.stdout + done.stderr
        after = run.status()
        assert after["champion"] == before["champion"]
        refused = fiot(first, "extras", "restore", deployment, str(backup), "--local")
        assert refused.returncode == 1
        assert "runs at the moment" in refused.stderr
        run.process.send_signal(signal.SIGINT)
        assert run.wait(60) == 0, run.said
    manifest = json.loads((backup / "manifest.json").read_bytes())
    assert before["records"]["raw"] <= manifest["rows"]["raw"]
    assert manifest["rows"]["raw"] > 3000  # live records went on
    assert manifest["rows"]["documents"] > 0

    restored = fiot(second, "extras", "restore", deployment, str(backup), "--local")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    quiet = {**QUICK, "COMPLEX_SYSTEM_LIVE_RATE": "0"}
    with fiot_run(second, deployment, "--records", "3000", **quiet) as run:
        run.eventually(lambda: run.status()["state"] == "running", 300)
        status = run.eventually(lambda: (s := run.status())["records"]["processed"] >= manifest["rows"]["raw"] and s, 60)
        # The same counts, and no other training: the champion, the W&B model and their predictions are those of before.
        assert status["records"]["raw"] == manifest["rows"]["raw"]
        assert status["records"]["processed"] + status["records"]["rejected"] == manifest["rows"]["raw"]
        assert status["champion"] == before["champion"]
        assert predictions(run, deployment) == expected
    again = fiot(second, "extras", "restore", deployment, str(backup), "--local")
    assert again.returncode == 1
    assert "Only an empty deployment can be restored" in again.stderr

    # A deployment that does not run is copied as well: its servers are started for it.
    later = fiot(second, "extras", "backup", deployment, str(tmp_path / "tuesday"), "--local")
    assert later.returncode == 0, later.stdout + later.stderr
    rows = json.loads((tmp_path / "tuesday" / "manifest.json").read_bytes())["rows"]
    assert {name: rows[name] for name in ("raw", "processed")} == {
        "raw": manifest["rows"]["raw"],
        "processed": status["records"]["processed"],
    }
