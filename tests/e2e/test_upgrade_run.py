"""docs/how-to/upgrade.md on data of a run of the release before: nothing is lost, the champion predicts until it is trained again."""

from __future__ import annotations

import asyncio
import subprocess
import tarfile
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from complex_system.backup.deployment import restore
from complex_system.backup.manifest import read_manifest
from complex_system.backup.places import PARTS, Place
from complex_system.local.servers import MariaServer, MongoServer, NatsServer, Server
from complex_system.settings import Settings
from documented import blocks
from runs import api_key, fiot_run
from support import started

FORMER = Path(__file__).parents[1] / "upgrade"
DATABASES: dict[str, type[Server]] = {"mongo": MongoServer, "maria": MariaServer}
AS_THEN = {
    "COMPLEX_SYSTEM_TRAINERS": "lightgbm,pytorch-wandb",
    "COMPLEX_SYSTEM_CROSS_VALIDATE_BELOW": "0",
    "COMPLEX_SYSTEM_RETRAIN_GROWTH": "1000",
    "COMPLEX_SYSTEM_TRAINING_INTERVAL": "1000000000",  # else the trainers renew models that are a day old, as these are
    "COMPLEX_SYSTEM_LIVE_RATE": "0",
    "COMPLEX_SYSTEM_INGEST_DEAD_AGE": "0",
}
RECORD = {
    "material_id": "11111111", "datum": "01.02.2026, 12:00:00", "laborant": "TK", "rohwert_1_labormessung": 7.5,
    "rohwert_2_labormessung": 11.25, "rohwert_3_labormessung": 0.75, "aufbereiteter_wert": None,
}  # fmt: skip
PREDICTION = {"mongo": 122.37471, "maria": 126.11047}
"""What the former release's champions predicted for it."""


def former_run(base: Path, deployment: str) -> None:
    """Makes the folder of a former run: its servers asked for no passwords."""
    folder = base / deployment
    with tarfile.open(FORMER / f"{deployment}.tar.xz") as packed:
        packed.extractall(base / "former", filter="data")
    kind = DATABASES[deployment]
    with ExitStack() as servers:
        found = [servers.enter_context(started(each(folder / each.name, port=0))) for each in (NatsServer, kind)]
        environment = {name: value for server in found for name, value in server.environment().items()}
        (base / "config").mkdir()
        place = Place(
            "a former run", PARTS, Settings.of(environment), f"database_{deployment}", folder / "mlflow", folder / "wandb",
            base / "config",
        )  # fmt: skip
        asyncio.run(restore(place, base / "former" / deployment, lambda _: None))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("deployment", ["mongo", "maria"])
def test_a_run_of_the_release_before_goes_on(tmp_path: Path, deployment: str) -> None:
    former_run(tmp_path, deployment)
    rows = read_manifest(tmp_path / "former" / deployment).rows
    copy, _, _, start, *_ = [block.text for block in blocks("docs/how-to/upgrade.md")]
    assert start == "fiot run mongo"
    (tmp_path / ".run").symlink_to(tmp_path)
    subprocess.run(["bash", "-ec", copy.replace("mongo", deployment)], cwd=tmp_path, check=True)
    few = {"COMPLEX_SYSTEM_MIN_LABELLED": "1000"}  # too few records for a training
    with fiot_run(tmp_path, deployment, "--records", "400", "--seed", "3", **AS_THEN, **few) as run:
        run.eventually(lambda: run.status()["state"] == "running", 300)
        status = run.eventually(lambda: (s := run.status())["records"]["processed"] >= rows["raw"] + 4 and s, 60)
        assert status["records"]["raw"] == rows["raw"] + 4
        assert (status["champion"]["model"], status["champion"]["version"]) == ("lab-lightgbm", "1")
        serving = run.eventually(lambda: (s := run.status()["services"]["ml_serving_mlflow"])["state"] == "ready" and s)
        with httpx.Client(base_url=serving["url"], headers={"X-API-Key": api_key(deployment)}) as client:
            assert client.get("/model").json()["model"]["version"] == "1"
            [prediction] = client.post("/predict", json=[RECORD]).json()["predictions"]
        assert prediction == pytest.approx(PREDICTION[deployment], rel=1e-6)
        monitoring = run.status()["services"]["ml_monitoring"]["url"]
        assert (tmp_path / f"{deployment}-before" / "mlflow").is_dir()
        # The page answers before the history is read.
        champion, *_ = run.eventually(lambda: httpx.get(f"{monitoring}/api/models").json()["champions"])
        assert champion["model"] == "lab-lightgbm"
    # That release split by key, this one keeps equal records together: its models may have seen what is held out now.
    enough = {"COMPLEX_SYSTEM_MIN_LABELLED": "100"}
    with fiot_run(tmp_path, deployment, "--records", "400", "--seed", "3", **AS_THEN, **enough) as run:
        champion = run.eventually(lambda: (s := run.status()["champion"]) and s["version"] == "2" and s, 300)
        assert champion["model"] in ("lab-lightgbm", "lab-pytorch-wandb")
