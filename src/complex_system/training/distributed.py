"""One fit on the workers of a Ray cluster: each reads its share of the records, and all learn one model together.

A worker that is lost is replaced, and the training goes on from the last state that was kept. Workers meet at an actor, the desk,
which lives on the node that this process is connected to: what is kept there needs no storage that the workers share.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from typing_extensions import override

from complex_system.background import started
from complex_system.domain.dataset import Dataset
from complex_system.errors import ComplexSystemError, TrainingFailedError
from complex_system.protocol.scores import Scores
from complex_system.training.base import Parameter, Progress, ProgressCallback, TrainedModel, Trainer
from complex_system.training.cluster import ClusterParameters, connected
from complex_system.training.conformal import set_apart_by_content
from complex_system.training.data import SampleCollector, Samples, TrainingData
from complex_system.training.executor import Look, never
from complex_system.training.peers import Peers
from complex_system.training.ray_head import HeadWatch, Report, say_nothing
from complex_system.training.split import Part
from complex_system.training.targets import TargetCheck, targets_message

log = logging.getLogger(__name__)

T = TypeVar("T")

Pages = Callable[[int, int], Iterable[pa.Table]]
"""Reads the labelled records of a worker by its number and the number of workers; it pickles, and is called on the worker."""

MAX_FAILURES = 3
"""Times that workers may be lost in one fit."""
KEPT_SAMPLES = 20_000
"""Samples of either part, of all workers, that come back beside the model, at most."""
KEEP_SECONDS = 5.0
"""Between two states that are kept."""
_OTHER_CALLS = 1000
"""Calls that the desk takes beside one of each worker."""
_LOOK_SECONDS, _GIVE_UP_SECONDS = 0.2, 0.5
"""Between two looks at the progress; and for how long the workers are waited for to hear of the end."""


@dataclass(frozen=True)
class SharedFit:
    """What every worker gets.

    Attributes:
        trainer: Trains; pickled without its framework's objects.
        dataset: Declares a split by key.
        pages: Reads a worker's share.
        keys: Keys of the training part that come back, at most.
    """

    trainer: Trainer
    dataset: Dataset
    pages: Pages
    keys: int
    threads: int = 1
    keep_seconds: float = KEEP_SECONDS


@dataclass(frozen=True)
class Fitted:
    """What is told of a model without all samples.

    Attributes:
        data: Even samples of both parts, with their true sizes, and the calibration samples.
        validation: Scores on the whole validation part.
        keys: A sample of the keys of the training part.
        labelled: Labelled records that were read.
        messages: What people must know of the data.
    """

    data: TrainingData
    validation: Scores
    keys: list[str]
    labelled: int
    messages: list[str]


@dataclass(frozen=True)
class _Part:
    """What a worker tells of its share."""

    data: TrainingData
    keys: list[str]
    message: str


@dataclass(frozen=True)
class _Saved:
    """A model without objects of its framework."""

    content: bytes
    parameters: Mapping[str, Parameter]
    history: list[Progress]
    best_step: int


class _Desk:
    """The actor at which workers and this process meet. It keeps what a training goes on from."""

    def __init__(self) -> None:
        self._attempt = ""
        self._tables: dict[int, _Table] = {}
        self._progress: Progress | None = None
        self._state: bytes | None = None
        self._error: ComplexSystemError | None = None
        self._result: Any = None

    async def gather(self, attempt: str, step: int, index: int, count: int, value: Any) -> list[Any] | None:
        """Return the values of all workers of an attempt once all have given theirs; None where one of them gives up."""
        if (
            attempt != self._attempt
        ):  # workers were lost; those that still wait for them have been ended, and their calls end here
            self._attempt = attempt
            self._let_go()
            self._tables.clear()
        table = self._tables.setdefault(step, _Table())
        table.values[index] = value
        if len(table.values) == count:
            table.full.set()
            self._tables.pop(step)
        if self._error is None:
            await table.full.wait()
        return [table.values[each] for each in range(count)] if len(table.values) == count else None

    async def give_up(self, error: ComplexSystemError) -> None:
        self._error = self._error or error
        self._let_go()

    def _let_go(self) -> None:
        for table in self._tables.values():
            table.full.set()

    async def error(self) -> ComplexSystemError | None:
        return self._error

    async def keep(self, state: bytes) -> None:
        self._state = state

    async def kept(self) -> bytes | None:
        return self._state

    async def report(self, progress: Progress) -> None:
        self._progress = progress

    async def progress(self) -> Progress | None:
        return self._progress

    async def finish(self, result: Any) -> None:
        self._result = result

    async def result(self) -> Any:
        return self._result


@dataclass
class _Table:
    values: dict[int, Any] = field(default_factory=dict)
    full: asyncio.Event = field(default_factory=asyncio.Event)


class _RayPeers(Peers):
    """The workers of one attempt of a fit."""

    def __init__(self, ray: Any, desk: Any, attempt: str, index: int, count: int, work: SharedFit, machines: Any) -> None:
        self._ray, self._desk, self._attempt = ray, desk, attempt
        self._step = 0
        self._keep_seconds, self._last_kept = work.keep_seconds, time.monotonic()
        self.index, self.count, self.threads, self.machines = index, count, work.threads, machines

    @override
    def gather(self, value: T) -> list[T]:
        self._step += 1
        call = self._desk.gather.remote(self._attempt, self._step, self.index, self.count, value)
        found: list[T] | None = self._ray.get(call)
        if found is None:
            raise TrainingFailedError("Another worker has given up.")
        return found

    @override
    def keep(self, state: Callable[[], bytes]) -> None:
        now = time.monotonic()
        if self.index == 0 and now - self._last_kept >= self._keep_seconds:
            self._ray.get(self._desk.keep.remote(state()))
            self._last_kept = time.monotonic()

    @override
    def kept(self) -> bytes | None:
        return self.gather(self._ray.get(self._desk.kept.remote()) if self.index == 0 else None)[0]


def fit_on_cluster(
    cluster: ClusterParameters,
    work: SharedFit,
    on_progress: ProgressCallback,
    look: Look = never,
    report: Report = say_nothing,
) -> tuple[TrainedModel, Fitted]:
    """Train on the workers of a cluster. Blocking; an exception of ``on_progress`` or ``look`` ends the training.

    Raises:
        ClusterUnavailableError: There is no cluster at the address.
        TrainingFailedError: The workers failed; the message says why.
    """
    workers = cluster.workers if work.trainer.distributes else 1
    work = replace(work, threads=max(1, int(cluster.cpus)))
    cluster = cluster if work.trainer.on_gpus else replace(cluster, gpus=0.0)
    with (
        # Ray Train's controller writes there until the connection ends, and perhaps a little longer.
        tempfile.TemporaryDirectory(prefix="complex-system-", ignore_cleanup_errors=True) as folder,
        connected(cluster, look=look, report=report) as ray,
    ):
        from ray import train
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # Ray has a call beyond these wait for another one's end, and every worker's call may wait for the last worker's.
        desk_options = {"num_cpus": 0, "max_concurrency": workers + _OTHER_CALLS, "scheduling_strategy": here}
        desk = ray.remote(**desk_options)(_Desk).remote()
        running = started(lambda: _run(cluster, work, workers, desk, folder), "cluster-fit")
        try:
            _follow(ray, desk, running, on_progress, look, HeadWatch(cluster.address))
            running.result()
        except (train.TrainingFailedError, ray.exceptions.RayError) as error:
            raise TrainingFailedError(f"The training on the cluster failed: {_reason(error)}") from error
        except BaseException:
            ray.wait([desk.give_up.remote(TrainingFailedError("The training was cancelled."))], timeout=_GIVE_UP_SECONDS)
            raise
        if (given_up := ray.get(desk.error.remote())) is not None:
            raise given_up
        saved, fitted = ray.get(desk.result.remote())
    names = work.dataset.feature_names
    model = work.trainer.restored(saved.content, names, saved.parameters, saved.history, saved.best_step)
    return model, fitted


def _follow(ray: Any, desk: Any, running: Future[None], on_progress: ProgressCallback, look: Look, head: HeadWatch) -> None:
    """Tell of the progress until the training has ended."""
    seen = None
    asked = desk.progress.remote()
    while not running.done():
        look()
        head.look()
        if ray.wait([asked], timeout=_LOOK_SECONDS)[0]:  # a desk that is lost with the head may never answer
            progress, asked = ray.get(asked), desk.progress.remote()
            if progress is not None and progress != seen:
                seen = progress
                on_progress(progress)
            time.sleep(_LOOK_SECONDS)


def _run(cluster: ClusterParameters, work: SharedFit, workers: int, desk: Any, folder: str) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    options: dict[str, Any] = {
        "train_loop_config": {"work": work, "desk": desk},
        "scaling_config": ScalingConfig(
            num_workers=workers, resources_per_worker=cluster.resources, use_gpu=cluster.gpus > 0
        ),
        "run_config": RunConfig(
            name=uuid.uuid4().hex, storage_path=folder, failure_config=FailureConfig(max_failures=MAX_FAILURES)
        ),
    }
    trainer: Any
    if work.trainer.framework == "lightgbm":
        from ray.train.lightgbm import LightGBMTrainer

        trainer = LightGBMTrainer(_work, **options)
    elif work.trainer.framework == "pytorch":
        from ray.train.torch import TorchConfig, TorchTrainer

        trainer = TorchTrainer(_work, torch_config=TorchConfig(backend="gloo"), **options)
    else:
        from ray.train.tensorflow import TensorflowTrainer

        trainer = TensorflowTrainer(_work, **options)
    trainer.fit()


def _work(config: dict[str, Any]) -> None:
    """Read a share and learn; runs on a worker. What would fail again is told instead of raised, so that it is not tried again."""
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a GPU that Ray has not given belongs to somebody else
    work, desk, context = config["work"], config["desk"], ray.train.get_context()
    index, count = context.get_world_rank(), context.get_world_size()
    attempt = broadcast_from_rank_zero(uuid.uuid4().hex if index == 0 else None)
    machines = {}
    if work.trainer.framework == "lightgbm":
        from ray.train.lightgbm import get_network_params

        machines = get_network_params()
    peers = _RayPeers(ray, desk, attempt, index, count, work, machines)
    try:
        _learn(ray, work, desk, peers)
    except ComplexSystemError as error:
        ray.get(desk.give_up.remote(error))


def _learn(ray: Any, work: SharedFit, desk: Any, peers: Peers) -> None:
    def report(progress: Progress) -> None:
        if peers.index == 0:
            desk.report.remote(progress)

    work.trainer.prepare()
    data, keys, labelled, message = _read(work, peers)
    model = work.trainer.fit(data, report, peers)
    scores = _scores(model, data.validation, peers)
    parts = peers.gather(_Part(_few(data, peers), keys, message))
    if peers.index == 0:
        fitted = Fitted(
            _joined(parts), scores, _sampled_keys(parts, work.keys), labelled, [p.message for p in parts if p.message]
        )
        saved = _Saved(model.saved(), dict(model.parameters), model.history, model.best_step)
        ray.get(desk.finish.remote((saved, fitted)))


def _read(work: SharedFit, peers: Peers) -> tuple[TrainingData, list[str], int, str]:
    collector = SampleCollector(work.dataset, [Part.TRAIN, Part.VALIDATION], keys=work.keys, timed=True)
    targets, labelled = TargetCheck(work.dataset), 0
    for table in work.pages(peers.index, peers.count):
        collector.add(table)
        targets.add(table)
        labelled += table.num_rows
    labelled = sum(peers.gather(labelled))
    data = set_apart_by_content(work.dataset, collector.training_data(), labelled)
    return data, collector.keys(Part.TRAIN), labelled, targets_message(targets.found())


def _few(data: TrainingData, peers: Peers) -> TrainingData:
    """Return training data with random samples of the parts, as many as this share is of all, and their true sizes."""
    parts = (data.train, data.validation)
    chosen = []
    for part, total in zip(parts, peers.total([len(part) for part in parts]), strict=True):
        kept = int(len(part) * min(1.0, KEPT_SAMPLES / total))
        places = np.random.default_rng(peers.index).choice(len(part), kept, replace=False)
        chosen.append(part.of(np.sort(places)))
    return replace(data, train=chosen[0], validation=chosen[1], whole=data.sizes)


def _joined(parts: list[_Part]) -> TrainingData:
    every = [part.data for part in parts]
    calibration = [data.calibration for data in every if data.calibration is not None]
    return replace(
        every[0],
        train=_concatenated([data.train for data in every]),
        validation=_concatenated([data.validation for data in every]),
        calibration=_concatenated(calibration) if any(map(len, calibration)) else None,
        copies=sum(data.copies for data in every),
        whole=(sum(data.sizes[0] for data in every), sum(data.sizes[1] for data in every)),
    )


def _concatenated(parts: list[Samples]) -> Samples:
    times = [part.times for part in parts if part.times is not None]
    return Samples(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
        times=np.concatenate(times) if len(times) == len(parts) else None,
    )


def _sampled_keys(parts: list[_Part], limit: int) -> list[str]:
    """Return as many keys of every worker as its share of the training samples."""
    sizes = [part.data.sizes[0] for part in parts]
    found: list[str] = []
    for part, size in zip(parts, sizes, strict=True):
        wanted = min(len(part.keys), limit * size // sum(sizes))
        found += [part.keys[place * len(part.keys) // wanted] for place in range(wanted)]
    return found


def _scores(model: TrainedModel, validation: Samples, peers: Peers) -> Scores:
    """Return the scores on everybody's validation samples, as :func:`~complex_system.training.base.score` defines them."""
    truth = validation.y.astype(np.float64)
    error = truth - model.predict(validation.x)
    count, total, squares, sizes = peers.total(
        [float(len(truth)), float(truth.sum()), float(np.sum(error**2)), float(np.sum(np.abs(error)))]
    )
    (spread,) = peers.total([float(np.sum((truth - total / count) ** 2))])
    return Scores(rmse=float(np.sqrt(squares / count)), mae=sizes / count, r2=1.0 - squares / spread if spread else 0.0)


def _reason(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.values()), error)
    return str(getattr(first, "cause", None) or first).strip().splitlines()[-1]
