"""A training is repeated from its run: over the real broker, database and MLflow, after the data have moved on."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from complex_system.domain.columns import ID
from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import ComplexSystemError, ModelRefusedError, UnknownModelError
from complex_system.local.servers import Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.service_layer.training.retrain import retrain
from complex_system.service_layer.training.service import TrainerService
from complex_system.settings import Settings
from complex_system.tracking.model_files import TRAINING
from complex_system.tracking.registry import ModelRegistry
from complex_system.training.training_set import RECORDS, TRAINING_SET, TrainingSet, read_training_set
from complex_system_services.ml_lightgbm_regression_mlflow.ml_lightgbm_regression_mlflow_service import (
    MlLightgbmRegressionMlflowService,
)
from complex_system_services.ml_pytorch_regression_mlflow.ml_pytorch_regression_mlflow_service import (
    MlPytorchRegressionMlflowService,
)
from complex_system_services.ml_tensorflow_regression_mlflow.ml_tensorflow_regression_mlflow_service import (
    MlTensorflowRegressionMlflowService,
)
from models import linear_onnx, register_onnx
from support import Ear, TesterService, eventually, running
from training_rounds import fill

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::ResourceWarning"),
]
ROOT = Path(__file__).parents[2]
LOADED = 240.0


@pytest.fixture
def fields() -> dict[str, Any]:
    return {"epochs": 4, "boosting_rounds": 60, "on_conflict": "replace", "lightgbm_trials": 4}


async def trained(service: type[TrainerService], settings: Settings, ear: Ear, round_id: str = "one") -> str:
    """Trains a model and returns its run."""
    async with running(service, settings) as trainer:
        await eventually(lambda: trainer.has_trained or round_id == "one")
        await ear.ask_trainers(round=round_id, trainers=[service.trainer_name])
        outcome = await ear.outcome(round_id, LOADED)
        assert outcome.status == "finished", outcome
    return outcome.run_id


async def repeated(tester: TesterService, settings: Settings, run: str) -> list[str]:
    said: list[str] = []
    await retrain(tester, settings.mlflow_tracking_uri, run, said.append)
    return said


async def refused(tester: TesterService, settings: Settings, run: str) -> str:
    with pytest.raises(ComplexSystemError) as error:
        await repeated(tester, settings, run)
    return error.value.message


def artifacts(settings: Settings, run: str, folder: Path) -> dict[str, bytes]:
    from mlflow import MlflowClient

    folder.mkdir(exist_ok=True)
    path = Path(MlflowClient(settings.mlflow_tracking_uri).download_artifacts(run, TRAINING, str(folder)))
    return {each.name: each.read_bytes() for each in path.iterdir()}


async def test_a_lightgbm_model_is_made_again_bit_for_bit_until_its_records_are_others(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, tmp_path: Path
) -> None:  # fmt: skip
    await fill(tester, dataset, 1, 800)
    run = await trained(MlLightgbmRegressionMlflowService, settings, ear)
    files = artifacts(settings, run, tmp_path)
    described, listed = read_training_set(files)
    assert (described.dataset, described.pipeline_version, described.seed) == ("lab", dataset.version, settings.seed)
    assert described.records == listed.num_rows == described.train + described.validation > 250
    assert {"lightgbm", "numpy", "python", "complex-system"} <= set(described.versions)
    assert len(files[RECORDS]) < 60 * listed.num_rows

    await fill(tester, dataset, 2, 1000)
    said = await repeated(tester, settings, run)
    assert said[-1] == f"The same model, bit for bit: SHA-256 {described.model}."
    # A record of the training gets another value, and two are deleted.
    keys = listed.column(ID).to_pylist()
    record = next(each for each in Laboratory(1).records(800) if each[ID] == keys[3])
    await DatabaseClient(tester).save_raw([{**record, dataset.target: 1.25}])
    await delete_raw(settings, keys[5:7])
    assert (await refused(tester, settings, run)).startswith(
        f"The training cannot be repeated: of its {len(keys)} records 2 are no longer there ({keys[5]}, {keys[6]}) and 1 have other "
        f"values now ({keys[3]})."
    )


async def delete_raw(settings: Settings, keys: list[str]) -> None:
    """Deletes raw records as retention does it."""
    from pymongo import MongoClient

    def delete() -> None:
        with MongoClient(settings.mongo_host, settings.mongo_port, username=settings.mongo_user or None,
                         password=settings.mongo_password or None, authSource=settings.mongo_auth_source) as client:  # fmt: skip
            names = client[settings.mongo_name].list_collection_names()
            gone = [client[settings.mongo_name][name].delete_many({ID: {"$in": keys}}).deleted_count
                    for name in names if "raw" in name.lower()]  # fmt: skip
            assert sum(gone) == len(keys), names

    await asyncio.to_thread(delete)


async def test_what_cannot_be_trained_again_says_why(
    settings: Settings, database: None, tester: TesterService, dataset: Dataset
) -> None:
    uri = settings.mlflow_tracking_uri

    def registered(trainer: str, **metadata: Any) -> str:
        name, version = register_onnx(
            uri, dataset, linear_onnx(dataset), prefix=settings.model_prefix, trainer=trainer, **metadata
        )
        return ModelRegistry(uri, settings.model_prefix).find(name, version).run_id

    earlier = "an earlier release, which did not keep the records of a training, made it."
    for trainer in ("lightgbm", "linear"):
        run = await asyncio.to_thread(registered, trainer)
        assert (
            await refused(tester, settings, run) == f"{settings.model_prefix}-{trainer} 1 cannot be trained again: {earlier}"
        )
    prefix, member = settings.model_prefix, await asyncio.to_thread(registered, "lightgbm")
    members = [
        {"model": f"{prefix}-lightgbm", "version": "2", "weight": 0.5},
        {"model": f"{prefix}-pytorch", "version": "7", "weight": 0.3},
        {"model": f"{prefix}-linear", "version": "", "weight": 0.2},
    ]
    stack = await asyncio.to_thread(partial(registered, "stack", members=members))
    assert await refused(tester, settings, stack) == (
        f"{prefix}-stack 1 cannot be trained again: a stack has no training of its own, its members have: {prefix}-lightgbm 2 (fiot "
        f"extras retrain {member}), {prefix}-pytorch 7 (deleted), {prefix}-linear (fitted within the round, its records are not kept)."
    )
    for nothing in ("0" * 32, "no run", "' or 1=1"):
        with pytest.raises(UnknownModelError, match="MLflow has no run"):
            await repeated(tester, settings, nothing)


@pytest.mark.long
async def test_the_command_trains_again_and_refuses_a_training_set_that_was_changed(
    settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset, nats_server: Server,
    mlflow_server: Server, tmp_path: Path,
) -> None:  # fmt: skip
    from mlflow import MlflowClient

    await fill(tester, dataset, 1, 400)
    run = await trained(MlLightgbmRegressionMlflowService, settings, ear)
    # Broker and MLflow are those of the environment.
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("fiot")), "extras", "retrain", run, cwd=ROOT,
        env={**os.environ, **nats_server.environment(), **mlflow_server.environment()},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert out.decode().splitlines()[-1].startswith("The same model, bit for bit: SHA-256 ")

    # What a search has found in the second round is used again.
    second = await trained(MlLightgbmRegressionMlflowService, settings, ear, "two")
    described, _ = read_training_set(artifacts(settings, second, tmp_path / "two"))
    assert described.searched["trials"] == 4
    assert (await repeated(tester, settings, second))[-1] == f"The same model, bit for bit: SHA-256 {described.model}."

    content = json.loads(artifacts(settings, run, tmp_path)[TRAINING_SET])
    content["trainer"] = "os:system"
    MlflowClient(settings.mlflow_tracking_uri).log_text(run, json.dumps(content), f"{TRAINING}/{TRAINING_SET}")
    assert "is damaged: files are missing or do not match the metadata" in await refused(tester, settings, run)
    with pytest.raises(ModelRefusedError, match="has no trainer os:system"):
        msgspec.convert(content, TrainingSet).new_trainer()


@pytest.mark.long
@pytest.mark.parametrize("service", [MlPytorchRegressionMlflowService, MlTensorflowRegressionMlflowService])
async def test_a_network_is_made_again_within_rounding(
    service: type[TrainerService], settings: Settings, database: None, tester: TesterService, ear: Ear, dataset: Dataset
) -> None:
    await fill(tester, dataset, 1, 800)
    run = await trained(service, settings, ear)
    await fill(tester, dataset, 2, 1000)
    said = await repeated(tester, settings, run)
    assert said[-1].startswith("The same model")
