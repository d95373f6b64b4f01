"""docs/how-to/add-a-trainer-tracker-or-source.md, followed as its reader does: each class in a project, with its suite."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from complex_system.cli.project import create_project
from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import ComplexSystemError
from complex_system.local.servers import ANY_PORT, Server
from complex_system.messaging.clients import ServingClient
from complex_system.pipeline.pipeline import Pipeline
from complex_system.testing.models import linear_onnx, onnx_metadata
from documented import ROOT, included
from runs import FIOT
from support import TesterService, eventually

PAGE = ROOT / "docs" / "how-to" / "add-a-trainer-tracker-or-source.md"
QUICK = ("folder_tracker", "folder_source", "line_source")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the files that the page shows, under the names that it gives them."""
    folder = tmp_path / "my-plant"
    create_project(folder)
    shown = included(PAGE)
    assert len({name for name, _ in shown}) == len(shown) == 15
    for name, source in shown:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    services = ("", "/ml_lightgbm_regression_mlflow", "/ml_serving_mlflow")
    for package in ("my_plant", *(f"my_plant_services{name}" for name in services)):
        (folder / "src" / package / "__init__.py").touch()
    return folder


def suites(project: Path, *options: str) -> str:
    """Runs the suites in the project as the page says; what they print."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Warning" not in said
    return said


def test_the_tracker_and_the_sources_of_the_page_keep_their_contracts(project: Path) -> None:
    said = suites(project, "-rs", *(f"tests/test_{name}.py" for name in QUICK))
    assert "16 passed, 1 skipped" in said
    assert "this tracker has no server" in said


@pytest.mark.long
def test_the_trainer_of_the_page_keeps_its_contract(project: Path) -> None:
    assert " passed" in suites(project, "tests/test_boosting_trainer.py")


@pytest.mark.long
@pytest.mark.parametrize(("file", "right", "wrong", "case"), [
    ("folder_tracker", 'begun.get("version") or ', "", "registers_nothing_twice"),
    ("folder_source", 'metadata["sha256"]', "hashlib.sha256(onnx_model).hexdigest()", "a_damaged_onnx_model_is_refused"),
    ("line_source", "datetime.fromisoformat(at)", "datetime.now().astimezone()", "the_time_of_its_sensor"),
])  # fmt: skip
def test_a_broken_promise_of_each_is_found(project: Path, file: str, right: str, wrong: str, case: str) -> None:
    path = project / "src" / "my_plant" / f"{file}.py"
    text = path.read_text(encoding="utf-8")
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(AssertionError, match=f"FAILED .*{case}"):
        suites(project, f"tests/test_{file}.py", "-k", case)


@pytest.mark.long
async def test_the_source_of_the_page_is_served_in_place_of_mlflows(
    project: Path, nats_server: Server, tester: TesterService, dataset: Dataset, laboratory: Laboratory
) -> None:
    version = project / "models" / "models" / "lab-lightgbm" / "1"
    version.mkdir(parents=True)
    model = linear_onnx(dataset, 7.0)
    (version / "model.onnx").write_bytes(model)
    (version / "metadata.json").write_text(json.dumps(onnx_metadata(dataset, model, "lab-lightgbm")), encoding="utf-8")
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(project / "src"))))
    own = {"PYTHONPATH": path, "PLANT_MODELS": str(project / "models"), "COMPLEX_SYSTEM_SERVING_MLFLOW_PORT": "0"}
    command = [sys.executable, "-m", "my_plant_services.ml_serving_mlflow.run"]
    environment = {**os.environ, **nats_server.environment(), **own}
    records = list(laboratory.records(3))

    async def predicted() -> list[float]:
        try:
            return await ServingClient(tester).predict(records)
        except ComplexSystemError:  # it starts
            return []

    with (project / "serving.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
        try:
            predictions = await eventually(predicted, 120)
        finally:
            process.terminate()
            assert process.wait(60) == 0, (project / "serving.log").read_text()
    assert predictions == pytest.approx((Pipeline(dataset).features(records).sum(axis=1) + 7.0).tolist(), rel=1e-5)


@pytest.mark.long
async def test_the_trainer_of_the_page_takes_the_place_of_lightgbms_in_a_run(project: Path) -> None:
    deployment = project / "deployments" / "mongo" / "deployment.yaml"
    others = r"^  (ml_(?!lightgbm|consumer)\w+):\n"
    deployment.write_text(re.sub(others, "", deployment.read_text(encoding="utf-8"), flags=re.MULTILINE), encoding="utf-8")
    environment = {**os.environ, **ANY_PORT, "COMPLEX_SYSTEM_TRAINERS": "lightgbm", "COMPLEX_SYSTEM_BOOSTING_ROUNDS": "60"}
    run = subprocess.Popen([FIOT, "run", "mongo", "--locked", "--records", "1500"], cwd=project, env=environment)
    try:

        def compared() -> list[dict[str, Any]]:
            status = project / ".run" / "mongo" / "status.json"
            return json.loads(status.read_text())["results"] if status.is_file() else []

        results = await eventually(compared, 150)
    finally:
        run.terminate()
        run.wait(60)
    assert "scikit-learn" in {each["framework"] for each in results}
