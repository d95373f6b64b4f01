"""Trainings in Weights & Biases, and beside it in the plain directory that serving reads. The only module that imports ``wandb``."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from typing_extensions import override

from complex_system.errors import ModelRefusedError, TrackingRefusedError, TrackingUnavailableError
from complex_system.tracking.artifact_store import METADATA, ArtifactStore
from complex_system.tracking.base import LoggedModel, Tracker, TrainingResult
from complex_system.training.base import TrainedModel

ARTIFACT = "DemonstratorNeuralNet"
ARTIFACT_TYPE = "pytorch-regression-model"
LATEST = "latest"
"""W&B's alias of the newest version."""
STATE_FILE = "model.pt"
ONNX_FILE = "model.onnx"


def artifact_folder(wandb_dir: str) -> Path:
    """Where the artifact store of a W&B folder is."""
    return Path(wandb_dir) / "artifacts" / ARTIFACT


class WandbTracker(Tracker):
    """Logs to Weights & Biases and to the plain directory store, then hands the training to a second tracker (MLflow).

    Offline, which is the default, W&B needs neither an account nor a network and writes its run below ``directory``.
    """

    def __init__(
        self,
        following: Tracker,
        state_of: Callable[[TrainedModel], bytes],
        *,
        mode: str,
        project: str,
        group: str,
        directory: str,
    ) -> None:
        """Prepares a tracker; nothing is imported or written yet.

        Args:
            following: Logs the training as well; its model and run are what :meth:`log` returns.
            state_of: The state dict of a model as bytes.
            mode: ``online``, ``offline`` or ``disabled``.
            project: W&B project.
            group: W&B run group.
            directory: Folder of W&B's runs and of the artifact store.
        """
        self._following = following
        self._state_of = state_of
        self._mode = mode
        self._project = project
        self._group = group
        self._directory = directory
        self._store = ArtifactStore(artifact_folder(directory))
        self._done: set[str] = set()

    @override
    def prepare(self) -> None:
        Path(self._directory).mkdir(parents=True, exist_ok=True)
        if self._mode != "disabled":
            for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # else W&B copies artifacts into the user's home
                os.environ.setdefault(name, str(Path(self._directory).resolve()))
            import wandb

            wandb.setup(settings=self._settings())
        self._following.prepare()

    @override
    def log(self, result: TrainingResult) -> LoggedModel:
        if result.round not in self._done:  # a repeated attempt is about the following tracker only
            files = {STATE_FILE: self._state_of(result.model), ONNX_FILE: result.onnx_model}
            run_id = self._log_run(result, files) if self._mode != "disabled" else ""
            self._store.write(files, result.metadata(ARTIFACT, run_id))
            self._done.add(result.round)
        try:
            logged = self._following.log(result)
        except TrackingRefusedError:
            self._done.discard(result.round)  # nobody will try again
            raise
        self._done.discard(result.round)
        return logged

    @override
    def close(self) -> None:
        if self._mode != "disabled":
            import wandb

            wandb.teardown()
        self._following.close()

    def _log_run(self, result: TrainingResult, files: dict[str, bytes]) -> str:
        import wandb

        with _translated("a run"):
            run = wandb.init(
                project=self._project,
                group=self._group,
                job_type="training",
                name=f"{result.trainer} {result.round[-12:]}",
                config={**result.model.parameters, "round": result.round, "pipeline_version": result.dataset.version},
                settings=self._settings(),
            )
            try:
                for progress in result.model.history:
                    run.log(
                        {"train_rmse": progress.train_rmse, "validation_rmse": progress.validation_rmse}, step=progress.step
                    )
                for name, value in result.validation.as_dict().items():
                    run.summary[f"validation_{name}"] = value
                if cross := result.cross_validation:
                    for name in ("rmse", "standard_error", "mae", "r2", "records"):
                        run.summary[f"cv_{name}"] = cross.as_dict()[name]
                run.log_artifact(self._artifact(run.id, result, files))
            finally:
                run.finish()
        return str(run.id)

    def _artifact(self, run_id: str, result: TrainingResult, files: dict[str, bytes]) -> Any:
        import wandb

        metadata = result.metadata(ARTIFACT, run_id)
        dimensions = {"input_dim": len(result.data.feature_names), "output_dim": 1}
        shown = {
            name: value for name, value in metadata.items() if name != "declaration"
        }  # W&B shows a hundred entries at most
        artifact = wandb.Artifact(ARTIFACT, ARTIFACT_TYPE, metadata={**dimensions, **shown})
        for name, content in {**files, METADATA: json.dumps(metadata, indent=2).encode()}.items():
            with artifact.new_file(name, mode="wb") as file:
                file.write(content)
        return artifact

    def _settings(self) -> Any:
        import wandb

        return wandb.Settings(
            mode=self._mode,
            root_dir=self._directory,
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
        """Files by name (without ``metadata.json``), and the metadata; downloads them.

        Raises:
            ModelRefusedError: It has no metadata of ours, or its files cannot be downloaded whole.
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
    """A version of an artifact of a project, or None if there is none. Needs an account.

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
