"""The exact records of a training, kept with its run: keys, parts and contents, and what else the model depends on.

With the same records in the same order, parameters and libraries, a trainer makes the same model on the same kind of machine.
"""

from __future__ import annotations

import hashlib
import importlib
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from complex_system import __version__
from complex_system.domain.columns import ID
from complex_system.domain.dataset import Dataset
from complex_system.errors import ModelRefusedError, TrainingFailedError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.training.base import Parameter, TrainedModel, Trainer, TrainingParameters
from complex_system.training.data import Samples, TrainingData
from complex_system.training.linear import LINEAR, LinearModel
from complex_system.training.split import Part, contents_of

TRAINING_SET, RECORDS = "training_set.json", "training_set.arrow"
MAX_LISTED = 1_000_000
"""Records whose keys are kept, at most; of more, only the digest is kept."""
NAMED = 5
"""Keys that a refusal names, the first ones."""
_PARTS = (Part.TRAIN, Part.VALIDATION)
_PACKAGES = {"lightgbm": ("lightgbm",), "pytorch": ("torch",), "tensorflow": ("tensorflow", "keras"), LINEAR: ("onnx",)}
_LINEAR = f"{LinearModel.__module__}:{LinearModel.__qualname__}"
_SHARED = ("numpy", "polars", "pyarrow")
_TRAINER = re.compile(r"(complex_system\.training\.[a-z_]+):([A-Za-z]+)")
_SCHEMA = pa.schema([pa.field(ID, pa.string()), pa.field("part", pa.int8()), pa.field("content", pa.uint64())])


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True):
    """What a model was trained on, and how.

    Attributes:
        dataset: Name of the data set.
        pipeline_version: Of its declaration.
        split: What the records were divided by.
        question: What the split answers (``Split.question``).
        since: Only records whose time is later were used, seconds since 1970 (UTC); None for all.
        after: Only records with larger keys were used; None for all.
        train: Records that were trained on.
        validation: Records that early stopping judged by.
        calibration: Records that were set apart for the intervals.
        first: Earliest time of the records, seconds since 1970 (UTC); None where it is not known.
        last: The latest one.
        listed: Whether the records are in ``training_set.arrow``.
        digest: SHA-256 of the contents of the records, in order, and of their keys where they are listed; of a sample of them where
            the workers of a cluster have trained together.
        trainer: Module and class of the trainer; of the model where it is the linear one, which has no trainer.
        seed: Of the training; 0 where nothing is random.
        settings: ``TrainingParameters`` by name.
        searched: What a search for parameters found; empty without one.
        parameters: As they are logged with the run.
        model: SHA-256 of the native model.
        versions: Of the libraries, of Python and of this package, and the kind of processor.
    """

    dataset: str
    pipeline_version: str
    split: str
    question: str
    since: float | None
    after: str | None
    train: int
    validation: int
    calibration: int
    first: float | None = None
    last: float | None = None
    listed: bool
    digest: str
    trainer: str
    seed: int
    settings: dict[str, Parameter]
    searched: dict[str, Any]
    parameters: dict[str, Parameter]
    model: str
    versions: dict[str, str]

    @property
    def records(self) -> int:
        """Records of both parts."""
        return self.train + self.validation

    def trained(self, data: TrainingData) -> TrainedModel:
        """Train again; the records are those of the training, in its order.

        Raises:
            ModelRefusedError: This release does not have that trainer.
        """
        return LinearModel(data) if self.trainer == _LINEAR else self.new_trainer().fit(data, lambda _: None)

    def new_trainer(self) -> Trainer:
        """Return a trainer with the parameters of the training, prepared; this imports its framework.

        Raises:
            ModelRefusedError: This release does not have that trainer.
        """
        found = _TRAINER.fullmatch(self.trainer)
        kind = getattr(importlib.import_module(found[1]), found[2], None) if found else None
        if not (isinstance(kind, type) and issubclass(kind, Trainer)):
            raise ModelRefusedError(f"This release has no trainer {self.trainer}.")
        trainer = kind(msgspec.convert(self.settings, TrainingParameters)).with_searched(self.searched)
        trainer.prepare()
        return trainer

    def other_versions(self) -> list[str]:
        """Return the libraries whose version has changed, as ``name now (then ...)``."""
        now = versions_of(tuple(self.versions))
        return [
            f"{name} {now.get(name, 'missing')} (then {then})"
            for name, then in self.versions.items()
            if now.get(name) != then
        ]


def describe_training(
    trainer: Trainer | None,
    dataset: Dataset,
    data: TrainingData,
    model: TrainedModel,
    since: float | None,
    after: str | None,
) -> dict[str, bytes]:
    """Return the files that a training can be repeated from, by name.

    Args:
        trainer: Who trained; None for the linear model, which has no parameters.
        dataset: What is declared.
        data: What was trained on; its samples have their keys, unless they are more than ``MAX_LISTED``.
        model: The result.
        since: As in the request for the training.
        after: Likewise.
    """
    parts = (data.train, data.validation)
    contents = np.concatenate([_contents(part) for part in parts])
    listed = None
    if data.train.keys is not None and data.validation.keys is not None and len(contents) <= MAX_LISTED:
        keys = pa.concat_arrays([data.train.keys, data.validation.keys])
        numbers = np.repeat(np.array(_PARTS, dtype=np.int8), [len(part) for part in parts])
        listed = pa.table([keys, numbers, contents], schema=_SCHEMA)
    kind, framework = (LinearModel, LINEAR) if trainer is None else (type(trainer), trainer.framework)
    times = [part.times for part in parts if part.times is not None]
    known = np.concatenate([each[np.isfinite(each)] for each in times] or [np.empty(0)])
    first, last = (float(known.min()), float(known.max())) if len(known) else (None, None)
    described = TrainingSet(
        dataset=dataset.name, pipeline_version=dataset.version, split=data.split, question=dataset.split.question, since=since,
        after=after, train=data.sizes[0], validation=data.sizes[1],
        calibration=0 if data.calibration is None else len(data.calibration), listed=listed is not None, first=first, last=last,
        digest=_digest(contents, listed), trainer=f"{kind.__module__}:{kind.__qualname__}",
        seed=trainer.parameters.seed if trainer else 0, settings=asdict(trainer.parameters) if trainer else {},
        searched=trainer.searched if trainer else {}, parameters=dict(model.parameters),
        model=hashlib.sha256(model.saved()).hexdigest(),
        versions=versions_of(("complex-system", "python", "machine", *_PACKAGES.get(framework, ()), *_SHARED)),
    )  # fmt: skip
    files = {TRAINING_SET: msgspec.json.format(msgspec.json.encode(described), indent=2)}
    if listed is not None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(listed)
        files[RECORDS] = sink.getvalue().to_pybytes()
    return files


def read_training_set(files: Mapping[str, bytes]) -> tuple[TrainingSet, pa.Table]:
    """Return what :func:`describe_training` wrote, with the list of the records.

    Raises:
        ModelRefusedError: It cannot be read, or the records are not listed.
    """
    try:
        described = msgspec.json.decode(files[TRAINING_SET], type=TrainingSet)
        if not described.listed:
            raise ModelRefusedError(
                f"The training had {described.records} records; keys are kept of at most {MAX_LISTED}, and of none where the workers "
                "of a cluster have trained together, so it cannot be repeated."
            )
        listed = pa.ipc.open_file(files[RECORDS]).read_all().cast(_SCHEMA)
        listed.validate(full=True)
    except (KeyError, msgspec.MsgspecError, pa.ArrowInvalid) as error:
        raise ModelRefusedError(f"The training set cannot be read: {error}") from error
    if _digest(listed.column("content").to_numpy(), listed) != described.digest:
        raise ModelRefusedError("The list of the training's records is damaged: it does not match its digest.")
    return described, listed


def rebuilt(dataset: Dataset, listed: pa.Table, raw: pa.Table) -> TrainingData:
    """Return the data of a training, made again from raw records.

    Args:
        dataset: As it was declared for the training.
        listed: The list of its records.
        raw: Their raw records, as far as they are there, in any order.

    Raises:
        TrainingFailedError: Records are missing or have changed; the message says how many, and names the first.
    """
    processed, _ = Pipeline(dataset).split(raw)
    places = {key: place for place, key in enumerate(processed.get_column(ID).to_list())}
    there = set(raw.column(ID).to_pylist())
    keys = listed.column(ID).to_pylist()
    gone = [key for key in keys if key not in there]
    found = np.array([places.get(key, -1) for key in keys])
    rows = np.full((len(keys), len(dataset.feature_names) + 1), np.nan, dtype=np.float32)
    for place, name in enumerate((*dataset.feature_names, dataset.target)):
        rows[found >= 0, place] = _numbers(processed, name)[found[found >= 0]]
    samples = Samples(np.ascontiguousarray(rows[:, :-1]), rows[:, -1].copy())
    same = (found >= 0) & (_contents(samples) == listed.column("content").to_numpy())
    changed = [key for key, is_same in zip(keys, same.tolist(), strict=True) if not is_same and key in there]
    if gone or changed:
        parts = [f"{len(gone)} are no longer there ({_named(gone)})"] if gone else []
        parts += [f"{len(changed)} have other values now ({_named(changed)})"] if changed else []
        raise TrainingFailedError(
            f"The training cannot be repeated: of its {len(keys)} records {' and '.join(parts)}. Raw records pass their retention "
            "(COMPLEX_SYSTEM_RAW_DAYS), and are replaced or deleted by those who send them."
        )
    part = listed.column("part").to_numpy()
    train, validation = (samples.of(part == each) for each in _PARTS)
    return TrainingData(
        dataset.feature_names, dataset.target, train, validation, split=dataset.split_rule, loss=dataset.loss
    )


def versions_of(names: Sequence[str]) -> dict[str, str]:
    """Return versions of packages, of ``python`` and ``complex-system``, and the ``machine``; without packages that are missing."""
    found = {"complex-system": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for name in set(names) - set(found):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {name: found[name] for name in names if name in found}


def _contents(samples: Samples) -> npt.NDArray[np.uint64]:
    return contents_of([*samples.x.T, samples.y], len(samples))


def _digest(contents: npt.NDArray[np.uint64], listed: pa.Table | None) -> str:
    found = hashlib.sha256(np.ascontiguousarray(contents, dtype="<u8").tobytes())
    for batch in listed.select([ID, "part"]).to_batches(max_chunksize=10_000) if listed is not None else ():
        rows = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
        found.update("".join(f"{key}\t{part}\n" for key, part in rows).encode())
    return found.hexdigest()


def _numbers(frame: pl.DataFrame, name: str) -> npt.NDArray[np.float32]:
    return frame.get_column(name).to_numpy().astype(np.float32)


def _named(keys: Sequence[str]) -> str:
    return ", ".join(keys[:NAMED]) + (", ..." if len(keys) > NAMED else "")
