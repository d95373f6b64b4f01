"""ml_serving: the newest W&B artifact from the trainer's directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.errors import NobodyListensError, NoModelError
from complex_system.local.servers import Server, free_port
from complex_system.messaging.clients import ServingClient
from complex_system.messaging.subjects import ML_SERVING_SUBJECT, ML_SERVING_WANDB_SUBJECT, TRAINING_FINISHED
from complex_system.settings import Settings
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.wandb import artifact_folder
from complex_system_services.ml_serving.ml_serving_service import MlServingService
from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService
from models import linear_twin, twin_metadata
from support import TesterService, eventually, running

# Only the event that a training has ended can bring a model here in time: the next look by polling is far away.
POLL = 600.0


@pytest.fixture
def settings(nats_server: Server, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(nats_server, serving_port=0, model_poll_interval=POLL)


@pytest.fixture
def publish(settings: Settings, dataset: Dataset) -> Callable[..., str]:
    """Writes an artifact as the W&B trainer does, and returns its digest."""
    store = ArtifactStore(artifact_folder(settings.wandb_dir))

    def write(bias: float, **changes: Any) -> str:
        twin = linear_twin(dataset, bias)
        metadata = twin_metadata(dataset, twin, "lab-pytorch-wandb", "pytorch-wandb") | changes
        return store.write({"model.pt": b"a state dict", "model.onnx": twin}, metadata)

    return write


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[MlServingService]:
    async with running(MlServingService, settings) as service:
        yield service


async def serves(service: MlServingService, version: str) -> None:
    await eventually(lambda: service.health().detail == f"DemonstratorNeuralNet {version}")


async def test_the_newest_artifact_is_served_as_soon_as_its_training_ended(
    service: MlServingService, tester: TesterService, publish: Callable[..., str], laboratory: Laboratory
) -> None:
    wandb, champion = ServingClient(tester, ML_SERVING_WANDB_SUBJECT), ServingClient(tester)
    records = list(laboratory.records(10))
    with pytest.raises(NoModelError, match="no model yet"):
        await wandb.predict(records)
    await eventually(lambda: service.health().detail == "no model yet")
    sums = service.holder.pipeline.features(records).sum(axis=1)
    for bias in (10.0, 20.0):
        digest = publish(bias)
        await tester.announce(TRAINING_FINISHED, {"trainer": "pytorch-wandb", "status": "finished"})
        await serves(service, digest)
        assert await wandb.predict(records) == pytest.approx((sums + bias).tolist(), rel=1e-5)
    async with httpx.AsyncClient(base_url=service.url) as client:
        answer = (await client.post("/predict", json=records)).json()
    assert answer["model"] == {"name": "DemonstratorNeuralNet", "version": digest, "framework": "pytorch"}
    assert answer["predictions"] == pytest.approx((sums + 20.0).tolist(), rel=1e-5)
    with pytest.raises(NobodyListensError):  # that subject is the champion's
        await champion.predict(records)


async def test_every_artifact_is_served_by_its_digest_and_an_earlier_one_is_rolled_back_to(
    service: MlServingService, settings: Settings, publish: Callable[..., str], laboratory: Laboratory
) -> None:
    old, new = publish(10.0), publish(20.0)
    await service.look_for_model()
    record = next(iter(laboratory.records(1)))
    [raw] = service.holder.pipeline.features([record]).sum(axis=1)
    tensors = {"inputs": [
        {"name": name, "shape": [1], "datatype": "BYTES" if isinstance(value, str) else "FP64", "data": [value]}
        for name, value in record.items()
    ]}  # fmt: skip

    async def infer(client: httpx.AsyncClient, version: str = "") -> float:
        answer = await client.post(
            f"/v2/models/DemonstratorNeuralNet{version and f'/versions/{version}'}/infer", json=tensors
        )
        assert answer.status_code == 200, answer.text
        [output] = answer.json()["outputs"]
        return float(output["data"][0])

    async with httpx.AsyncClient(base_url=service.url) as client:
        assert (
            await infer(client)
            == await infer(client, "latest")
            == await infer(client, new)
            == pytest.approx(raw + 20, rel=1e-5)
        )
        assert await infer(client, old) == pytest.approx(raw + 10, rel=1e-5)
        assert (await client.get("/v2/models/DemonstratorNeuralNet/versions/0123456789abcdef")).status_code == 404
        assert (await client.get("/v2/models/another")).status_code == 404
        [listed] = (await client.get("/models")).json()["models"]
        assert (listed["newest"], listed["aliases"], listed["loaded"]) == (new, {"latest": new}, sorted([old, new]))
        (artifact_folder(settings.wandb_dir) / "newest").write_text(old, encoding="utf-8")
        await service.look_for_model()
        assert service.holder.require().info.version == old
        assert await infer(client) == await infer(client, "latest") == pytest.approx(raw + 10, rel=1e-5)


async def test_a_damaged_artifact_is_refused_and_the_old_one_stays(
    service: MlServingService, settings: Settings, publish: Callable[..., str], laboratory: Laboratory
) -> None:
    old = publish(10.0)
    await service.look_for_model()
    assert service.holder.require().info.version == old
    damaged = publish(20.0)
    twin = artifact_folder(settings.wandb_dir) / damaged / "model.onnx"
    twin.write_bytes(twin.read_bytes()[:-1] + b"\x00")
    await service.look_for_model()
    problem = service.holder.status()["problem"]
    assert problem["version"] == damaged
    assert "damaged" in problem["reason"]
    assert service.holder.require().info.version == old
    assert "damaged" in service.health().detail


async def test_the_one_serving_service_of_a_deployment_answers_get_prediction_too(
    settings: Settings, tester: TesterService, publish: Callable[..., str], laboratory: Laboratory
) -> None:
    publish(10.0)
    only = settings.copy(update={"serving_answers_prediction": True})
    async with running(MlServingService, only) as service:
        await eventually(lambda: service.holder.current)
        records = list(laboratory.records(3))
        own = await ServingClient(tester, ML_SERVING_WANDB_SUBJECT).predict(records)
        assert await ServingClient(tester).predict(records) == own


async def test_two_replicas_of_it_share_get_prediction(settings: Settings, tester: TesterService) -> None:
    only = settings.copy(update={"serving_answers_prediction": True})
    async with running(MlServingService, only) as first, running(MlServingService, only) as second:
        await eventually(lambda: second.health().detail == first.health().detail == "no model yet")
        assert second.subjects() == [ML_SERVING_WANDB_SUBJECT, ML_SERVING_SUBJECT]


@pytest.mark.parametrize("champion_first", [True, False])
async def test_it_leaves_get_prediction_to_the_champions_service(
    settings: Settings,
    mlflow_server: Server,
    tester: TesterService,
    publish: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    champion_first: bool,
) -> None:
    """Whichever of the two comes first: one subject, one model."""
    publish(10.0)
    update = {
        "serving_answers_prediction": True, "serving_mlflow_port": 0, "model_prefix": f"t{uuid4().hex[:10]}",
        "mlflow_tracking_uri": mlflow_server.url,
    }  # fmt: skip
    both = settings.copy(update=update)
    services = [MlServingMlflowService, MlServingService]
    first, second = services if champion_first else services[::-1]
    async with running(first, both) as one, running(second, both) as other:
        artifact = next(service for service in (one, other) if isinstance(service, MlServingService))
        await eventually(lambda: "does not answer 'get-prediction'" in artifact.health().detail)
        await eventually(lambda: artifact.health().state == "ready")
        assert "does not answer 'get-prediction'" in artifact.health().detail
        assert "'get-prediction' is answered by " in caplog.text
        records = [Laboratory(1).complete_record()]
        assert len(await ServingClient(tester, ML_SERVING_WANDB_SUBJECT).predict(records)) == 1
        for _ in range(5):
            with pytest.raises(NoModelError):  # the champion's service answers, and it has none
                await ServingClient(tester).predict(records)
        assert await tester.answerer(ML_SERVING_SUBJECT, []) == "MlServingMlflowService"
    assert await tester.answerer(ML_SERVING_SUBJECT, []) == ""


_ASK_ONLINE = """
import threading
from complex_system.errors import TrackingUnavailableError
from complex_system.serving.models.wandb import WandbOnlineSource, wandb_source
from complex_system.settings import Settings

assert isinstance(wandb_source(Settings()), WandbOnlineSource)
source = WandbOnlineSource("project", patience=0.5)
for _ in range(3):
    try:
        source.newest()
    except TrackingUnavailableError as error:
        print(error)
assert sum(thread.name == "wandb" for thread in threading.enumerate()) <= 1
"""


def test_an_online_artifact_that_cannot_be_reached_is_an_error_in_time_and_holds_no_process() -> None:
    # In a process of its own, because wandb keeps an account and an address once it was asked.
    own = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}"}
    done = subprocess.run(
        [sys.executable, "-c", _ASK_ONLINE],
        env={**os.environ, **own},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split(" did not")[0] for line in done.stdout.splitlines()] == ["Weights & Biases"] * 3
