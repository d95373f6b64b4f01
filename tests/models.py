"""Small real models for tests: ONNX models of a linear law, logged and registered in MLflow as the trainers do it."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from typing_extensions import override

from complex_system.domain.dataset import Dataset
from complex_system.errors import UnknownModelError
from complex_system.http.server import RestServer
from complex_system.local.mlflow_server import DATABASE
from complex_system.local.servers import Server
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.engine import Limits, PredictionEngine
from complex_system.serving.grpc.server import GrpcServer
from complex_system.serving.metrics import ServingMetrics
from complex_system.serving.models.manager import ModelManager
from complex_system.serving.models.source import ListedModel, LoadedModel, ModelReference, ModelSource
from complex_system.serving.rest.app import make_app
from complex_system.serving.rest.endpoint import Backend
from complex_system.testing.models import linear_onnx, onnx_metadata
from complex_system.tracking.model_files import FILES, digests_of
from complex_system.tracking.signature import signed
from complex_system.training.conformal import INTERVALS_FILE, intervals_of


def quick_files() -> dict[str, bytes]:
    """What a model carries: intervals of 99 records whose errors are 1, 2 ... 99, so those of 90 % reach 90 to both sides."""
    return {INTERVALS_FILE: intervals_of(np.arange(1.0, 100.0), None, "calibration records").encoded()}


def register_onnx(
    tracking_uri: str,
    dataset: Dataset,
    onnx_model: bytes,
    *,
    prefix: str,
    trainer: str = "lightgbm",
    champion: bool = True,
    model_key: str = "",
    files: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> tuple[str, str]:
    """Logs a run with the ONNX model, registers a version and, if wanted, makes it champion.

    Args:
        prefix: What the registered name begins with; one of its own keeps tests apart.
        model_key: Signs the model, as a trainer does; empty for no signature.
        files: What the version carries beside the ONNX model.
        changes: Replaced entries of the metadata.

    Returns:
        Registered name and version.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    name = f"{prefix}-{trainer}"
    run = client.create_run("0")
    files = files or {}
    own = {"run_id": run.info.run_id, FILES: digests_of(files)}
    metadata = signed(onnx_metadata(dataset, onnx_model, name, trainer, **own) | changes, model_key)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.onnx").write_bytes(onnx_model)
        for file, content in files.items():
            Path(folder, file).write_bytes(content)
        Path(folder, "metadata.json").write_text(json.dumps(metadata))
        client.log_artifacts(run.info.run_id, folder, "twin")
    client.set_terminated(run.info.run_id)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        "framework": metadata["framework"],
        "trainer": trainer,
        "round": metadata["round"],
        "pipeline_version": metadata["pipeline_version"],
        "target": metadata["target"],
        "split": dataset.split_rule,
        "twin": "twin",
        "prefix": prefix,
    }
    source = f"{run.info.artifact_uri}/twin"
    version = str(client.create_model_version(name, source, run.info.run_id, tags=tags).version)
    if champion:
        crown(tracking_uri, name, version)
    return name, version


def crown(tracking_uri: str, name: str, version: str) -> None:
    """Moves the alias ``champion`` among the models of a prefix."""
    from complex_system.tracking.registry import ModelRegistry

    ref = ModelRegistry(tracking_uri, "").find(name, version)
    ModelRegistry(tracking_uri, ref.tags["prefix"]).set_champion(ref)


class MemorySource(ModelSource):
    """A source whose newest model a test sets."""

    label = "memory"

    def __init__(self) -> None:
        self.published: list[tuple[str, str, bytes, dict[str, Any]]] = []
        self.loads = 0
        self.failure: Exception | None = None
        self.files: dict[str, bytes] = {}

    def publish(self, dataset: Dataset, bias: float, onnx_model: bytes | None = None, **changes: Any) -> str:
        """Makes an ONNX model that answers ``bias`` plus the sum of the features the newest, and returns its version."""
        version = str(len(self.published) + 1)
        onnx_model = linear_onnx(dataset, bias) if onnx_model is None else onnx_model
        self.published.append(
            ("memory-lightgbm", version, onnx_model, onnx_metadata(dataset, onnx_model, "memory-lightgbm") | changes)
        )
        return version

    @override
    def newest(self) -> ModelReference | None:
        if self.failure is not None:
            raise self.failure
        return ModelReference(*self.published[-1][:2]) if self.published else None

    @override
    def load(self, reference: ModelReference) -> LoadedModel:
        self.loads += 1
        _, _, onnx_model, metadata = self.published[int(reference.version) - 1]
        return LoadedModel(onnx_model, metadata, files={**quick_files(), **self.files})


class ManyModels(ModelSource):
    """A source of several models, versions and aliases, as a registry has them."""

    label = "the test's registry"

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.versions_of: dict[str, list[tuple[bytes, dict[str, Any], Mapping[str, bytes]]]] = {}
        self.aliases: dict[str, dict[str, str]] = {}
        self.loads: list[tuple[str, str]] = []
        self.looks = 0
        self.files: dict[str, bytes] = {}

    def publish(
        self, name: str, bias: float, *, champion: bool = False, files: Mapping[str, bytes] | None = None, **changes: Any
    ) -> str:
        """Registers an ONNX model that answers ``bias`` plus the sum of the features, with intervals unless other files are given."""
        onnx_model = linear_onnx(self.dataset, bias)
        trainer = name.partition("-")[2]
        self.versions_of.setdefault(name, []).append(
            (
                onnx_model,
                onnx_metadata(self.dataset, onnx_model, name, trainer) | changes,
                quick_files() if files is None else files,
            )
        )
        version = str(len(self.versions_of[name]))
        if champion:
            self.crown(name, version)
        return version

    def crown(self, name: str, version: str) -> None:
        """Moves the alias ``champion``."""
        for aliases in self.aliases.values():
            aliases.pop("champion", None)
        self.aliases.setdefault(name, {})["champion"] = version

    @override
    def newest(self) -> ModelReference | None:
        crowned = [(name, aliases["champion"]) for name, aliases in self.aliases.items() if "champion" in aliases]
        return ModelReference(*crowned[0]) if crowned else None

    @override
    def versions(self, name: str) -> list[str]:
        return [str(number + 1) for number in range(len(self.versions_of.get(name, [])))]

    @override
    def listed(self) -> list[ListedModel]:
        return [
            ListedModel(ModelReference(name, str(len(versions))), name.partition("-")[2], self.aliases.get(name, {}))
            for name, versions in self.versions_of.items()
        ]

    @override
    def find(self, name: str, version: str | None = None) -> ModelReference:
        self.looks += 1
        known = [str(number + 1) for number in range(len(self.versions_of.get(name, [])))]
        wanted = self.aliases.get(name, {}).get(version or "", version or (known[-1] if known else ""))
        if wanted not in known:
            raise UnknownModelError(f"There is no model '{name}' of version or alias '{version}'.")
        return ModelReference(name, wanted)

    @override
    def load(self, reference: ModelReference) -> LoadedModel:
        self.loads.append((reference.name, reference.version))
        onnx_model, metadata, files = self.versions_of[reference.name][int(reference.version) - 1]
        return LoadedModel(onnx_model, metadata, files={**files, **self.files})


@asynccontextmanager
async def rest_server(
    dataset: Dataset, source: ModelSource, limits: Limits | None = None, kept: int = 8, **options: Any
) -> AsyncIterator[tuple[ModelManager, httpx.AsyncClient]]:
    """The REST interface over a source on a real socket, and a client of it; options are ``make_app``'s."""
    models = ModelManager(source, Pipeline(dataset), kept=kept)
    await models.refresh()
    rest = RestServer(make_app(PredictionEngine(models, limits=limits), dataset, **options), "127.0.0.1", 0)
    await rest.start()
    try:
        async with httpx.AsyncClient(base_url=rest.url, timeout=20) as client:
            yield models, client
    finally:
        await rest.stop()


@asynccontextmanager
async def grpc_server(
    dataset: Dataset, source: ModelSource, limits: Limits | None = None, api_key: str = "", **options: Any
) -> AsyncIterator[tuple[Backend, GrpcServer]]:
    """The gRPC interface over a source on a real socket; options are ``GrpcServer``'s."""
    models = ModelManager(source, Pipeline(dataset))
    await models.refresh()
    backend = Backend(PredictionEngine(models, limits=limits), ServingMetrics(models), api_key)
    server = GrpcServer(backend, "127.0.0.1", 0, **options)
    await server.start()
    try:
        yield backend, server
    finally:
        await server.stop()


def delete_version_as_older_servers(server: Server, name: str, version: str) -> None:
    """Delete a version so that its alias stays, as MLflow's servers up to 3.5 do (mlflow/mlflow#24825); newer ones keep such rows."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.url, server.url)
    aliases = [alias for alias, number in client.get_registered_model(name).aliases.items() if str(number) == version]
    client.delete_model_version(name, version)
    with closing(sqlite3.connect(server.directory / DATABASE, timeout=10)) as database, database:
        database.executemany(
            "INSERT OR REPLACE INTO registered_model_aliases (name, alias, version) VALUES (?, ?, ?)",
            [(name, alias, int(version)) for alias in aliases],
        )
    assert {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}.items() >= {
        (alias, version) for alias in aliases
    }
