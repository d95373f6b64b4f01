"""Trainings in Weights & Biases, and in the plain directory that serving reads. The only module that imports ``wandb``."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import override

from complex_system.errors import ModelRefusedError, TrackingRefusedError, TrackingUnavailableError
from complex_system.protocol.base import to_wire
from complex_system.tracking.artifact_store import METADATA, ArtifactStore
from complex_system.tracking.base import LoggedModel, Tracker, TrainingResult
from complex_system.tracking.outbox import MAX_KEPT
from complex_system.tracking.signature import signed
from complex_system.training.base import TrainedModel

ARTIFACT = "DemonstratorNeuralNet"
ARTIFACT_TYPE = "pytorch-regression-model"
LATEST = "latest"
"""W&B's alias of the newest version."""
STATE_FILE = "model.pt"
ONNX_FILE = "model.onnx"


def artifact_folder(wandb_dir: str) -> Path:
    """Return the artifact store's folder in a W&B folder."""
    return Path(wandb_dir) / "artifacts" / ARTIFACT


@dataclass
class WandbTracker(Tracker):
    """Logs to Weights & Biases and to the plain directory store, then passes the training to a second tracker (MLflow).

    Offline, which is the default, W&B needs neither an account nor a network and writes its run below ``directory``.

    Attributes:
        following: Logs the training as well; :meth:`log` returns its model and run.
        state_of: Returns the state dict of a model as bytes.
        mode: ``online``, ``offline`` or ``disabled``.
        project: W&B project.
        group: W&B run group.
        directory: Folder of W&B's runs and of the artifact store.
        model_key: Signs the models; empty for no signature.
    """

    following: Tracker
    state_of: Callable[[TrainedModel], bytes]
    _: KW_ONLY
    mode: str
    project: str
    group: str
    directory: str
    model_key: str = ""
    _done: set[str] = field(default_factory=set, init=False)

    @override
    def prepare(self) -> None:
        Path(self.directory).mkdir(parents=True, exist_ok=True)
        if self.mode != "disabled":
            for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # else W&B copies artifacts into the user's home
                os.environ.setdefault(name, str(Path(self.directory).resolve()))
            import wandb

            wandb.setup(settings=self._settings())
        self.following.prepare()

    @override
    def log(self, result: TrainingResult) -> LoggedModel:
        if result.round not in self._done and not self._is_kept(result):  # else only the following tracker is concerned
            files = {**result.files, STATE_FILE: self.state_of(result.model), ONNX_FILE: result.onnx_model}
            run_id = self._log_run(result, files) if self.mode != "disabled" else ""
            self._store.write(files, self._metadata(result, run_id))
        self._done.add(result.round)
        try:
            logged = self.following.log(result)
        except TrackingRefusedError:
            self._done.discard(result.round)  # nobody tries again
            raise
        self._done.discard(result.round)
        return logged

    @override
    def close(self) -> None:
        if self.mode != "disabled":
            import wandb

            wandb.teardown()
        self.following.close()

    @property
    def _store(self) -> ArtifactStore:
        return ArtifactStore(artifact_folder(self.directory))

    def _is_kept(self, result: TrainingResult) -> bool:
        """Whether an earlier process wrote the artifact of this training, which comes after the run of Weights & Biases."""
        wanted = (result.trainer, result.round, result.trained_at.isoformat())
        for digest in self._store.digests()[-2 * MAX_KEPT :]:
            with contextlib.suppress(ModelRefusedError):
                _, metadata = self._store.read(digest)
                if tuple(metadata.get(name) for name in ("trainer", "round", "trained_at")) == wanted:
                    return True
        return False

    def _log_run(self, result: TrainingResult, files: dict[str, bytes]) -> str:
        import wandb

        with _translated("a run"):
            run = wandb.init(
                project=self.project,
                group=self.group,
                job_type="training",
                name=f"{result.trainer} {result.round[-12:]}",
                config={
                    **result.model.parameters,
                    "round": result.round,
                    "pipeline_version": result.dataset.version,
                    "split": result.data.split,
                },
                settings=self._settings(),
            )
            try:
                for each in result.model.history:
                    run.log({"train_rmse": each.train_rmse, "validation_rmse": each.validation_rmse}, step=each.step)
                scores = {f"validation_{name}": value for name, value in to_wire(result.validation).items()}
                run.summary.update({**scores, **result.sizes})
                if result.cross_validation:
                    for name in ("rmse", "standard_error", "mae", "r2", "records"):
                        run.summary[f"cv_{name}"] = getattr(result.cross_validation, name)
                run.log_artifact(self._artifact(run.id, result, files))
            finally:
                run.finish()
        return str(run.id)

    def _artifact(self, run_id: str, result: TrainingResult, files: dict[str, bytes]) -> Any:
        import wandb

        metadata = self._metadata(result, run_id)
        shown = {"input_dim": len(result.data.feature_names), "output_dim": 1, **metadata}
        del shown["declaration"]  # W&B shows at most a hundred entries
        artifact = wandb.Artifact(ARTIFACT, ARTIFACT_TYPE, metadata=shown)
        for name, content in {**files, METADATA: json.dumps(metadata, indent=2).encode()}.items():
            with artifact.new_file(name, mode="wb") as file:
                file.write(content)
        return artifact

    def _metadata(self, result: TrainingResult, run_id: str) -> dict[str, Any]:
        return signed(result.metadata(ARTIFACT, run_id), self.model_key)

    def _settings(self) -> Any:
        import wandb

        return wandb.Settings(
            mode=self.mode,
            root_dir=self.directory,
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
            init_timeout=30,
        )


class OnlineArtifact:
    """A version of the artifact at Weights & Biases.

    Attributes:
        digest: Tells versions apart.
    """

    def __init__(self, artifact: Any) -> None:
        self.digest = str(artifact.digest)
        self._artifact = artifact

    def read(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """Download the artifact; return files by name (without ``metadata.json``), and the metadata.

        Raises:
            ModelRefusedError: It has no metadata of ours, or its files cannot be downloaded completely.
        """
        with _translated("reading an artifact"), tempfile.TemporaryDirectory() as folder:
            try:
                path = Path(self._artifact.download(root=folder, skip_cache=True))
            except ValueError as error:
                raise ModelRefusedError(f"The artifact {self.digest} at Weights & Biases is damaged: {error}") from error
            files = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
        if METADATA not in files:
            raise ModelRefusedError(f"The artifact {self.digest} at Weights & Biases holds no {METADATA}.")
        metadata: dict[str, Any] = json.loads(files.pop(METADATA))
        return files, metadata


def find_artifact(project: str, version: str = LATEST, name: str = ARTIFACT) -> OnlineArtifact | None:
    """Return a version of an artifact of a project, or None if there is none. Needs an account.

    Args:
        project: W&B project.
        version: W&B's version (``v3``) or alias; ``latest`` is the newest.
        name: Name of the artifact.

    Raises:
        TrackingUnavailableError: Weights & Biases does not answer.
        TrackingRefusedError: It does not accept the account.
    """
    import wandb

    with _translated("looking for an artifact"):
        api = wandb.Api(timeout=20)
        if not api.artifact_exists(f"{project}/{name}:{version}", type=ARTIFACT_TYPE):
            return None
        return OnlineArtifact(api.artifact(f"{project}/{name}:{version}", type=ARTIFACT_TYPE))


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    import requests
    import wandb

    try:
        yield
    except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
        raise TrackingRefusedError(f"Weights & Biases refuses {doing}: {error}") from error
    except (wandb.errors.Error, requests.RequestException, OSError, TimeoutError) as error:
        raise TrackingUnavailableError(f"Weights & Biases does not answer ({doing}): {error}") from error
