"""A running system in a notebook: its labelled data as a frame, and its models. ``complex_system.load`` and ``complex_system.models``.

Broker and MLflow are those of the settings, so of the same environment variables as the services' (``.env.example``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from complex_system.domain.columns import ID, raw_name
from complex_system.domain.dataset import Dataset
from complex_system.errors import NotEnoughDataError, UnknownModelError
from complex_system.messaging.clients import DatabaseClient, SystemClient
from complex_system.pipeline.pipeline import Pipeline
from complex_system.service_layer.rounds.labelled_data import LabelledData
from complex_system.serving.explain import Explanations
from complex_system.serving.models.predictor import Predictor
from complex_system.serving.models.slot import pipeline_for
from complex_system.serving.requests.batch import RecordBatch
from complex_system.settings import Settings
from complex_system.tracking.registry import ModelRegistry
from complex_system.training.data import SampleCollector, Samples
from complex_system.training.split import Part, contents_of

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    Frame = pd.DataFrame | pl.DataFrame

PART, COMPARED = "_part", "_compared"
"""Columns of :func:`load` beside key, features and target."""

Numbers = npt.NDArray[np.float64]
T = TypeVar("T")


def load(frame: Literal["pandas", "polars"] = "pandas", *, raw: bool = False, settings: Settings | None = None) -> Frame:
    """Return the labelled records of a running system as the trainers and the comparison get them.

    Args:
        frame: What kind of frame.
        raw: Raw columns in place of features.
        settings: Where the system is; the environment says so by default.

    Returns:
        A row a labelled record: ``_id``; ``_part`` (``train``, ``validation``, ``holdout``); ``_compared``, whether a comparison that
        begins now decides on it; the features, float32, or the raw columns; the target.

    Raises:
        ComplexSystemError: The system does not answer, or has too few labelled records.
    """
    settings = settings or Settings()
    table = _waited(_loaded(settings, _dataset(settings), raw=raw))
    if frame == "pandas":
        loaded: Frame = table.to_pandas()
        return loaded
    import polars

    return polars.DataFrame(table)


def models(name: str = "", version: str = "", *, settings: Settings | None = None) -> Model:
    """Return a model of a running system: its champion, or one by registered name, version or alias.

    Args:
        name: Registered name; empty for the champion.
        version: Version or alias; empty for the newest.
        settings: Where the system is; the environment says so by default.

    Raises:
        UnknownModelError: There is none.
        ModelRefusedError: It has no ONNX model that can be used here.
        TrackingUnavailableError: MLflow does not answer.
    """
    settings = settings or Settings()
    dataset = _dataset(settings)
    registry = ModelRegistry(settings.mlflow_tracking_uri, settings.model_prefix or dataset.name, settings.model_key)
    ref = registry.find(name, version or None) if name else registry.champion()
    if ref is None:
        raise UnknownModelError("There is no champion yet; name a model, or wait for the first comparison.")
    onnx_model, metadata = registry.load_onnx_model(ref)
    label = f"{ref.model} version {ref.version}"
    pipeline = pipeline_for(label, metadata, Pipeline(dataset))
    files = registry.load_files(ref, metadata)
    return Model(Predictor(pipeline, ref.model, ref.version, onnx_model, metadata, files=files))


@dataclass(frozen=True)
class Model:
    """A version of the registry, run here as serving runs it.

    Frames are of pandas or polars. They have the features, as from :func:`load`, or with ``raw`` raw columns, and any others.
    """

    predictor: Predictor

    @property
    def name(self) -> str:
        """Its registered name."""
        return self.predictor.info.name

    @property
    def version(self) -> str:
        """Its version there."""
        return self.predictor.info.version

    @property
    def target(self) -> str:
        """The column that it predicts."""
        return self.predictor.info.target

    @property
    def features(self) -> list[str]:
        """Its features, in order."""
        return list(self.predictor.pipeline.dataset.feature_names)

    def predict(self, frame: Frame, *, raw: bool = False) -> Numbers:
        """Return a prediction for each row, in the target's unit, shape (n,).

        Raises:
            InvalidRecordError: A raw record cannot be processed.
            InvalidRequestError: A raw column is missing.
        """
        table = _table(frame)
        pipeline = self.predictor.pipeline
        if raw:
            features = pipeline.features_of(pipeline.typed(table))
        else:
            columns = [table.column(name).to_numpy().astype(np.float32) for name in self.features]
            features = np.ascontiguousarray(np.column_stack(columns))
        return np.asarray(self.predictor.predict_features(features), dtype=np.float64)

    def interval(self, frame: Frame, level: float = 0.9, *, raw: bool = False) -> Numbers:
        """Return lower and upper ends of the intervals of a level, shape (n, 2).

        Raises:
            UnsupportedByModelError: The model has no intervals.
            InvalidRequestError: It has none of this level.
        """
        half = self.predictor.half_width(level)
        found: Numbers = self.predict(frame, raw=raw)[:, None] + np.array([-half, half])
        return found

    def explain(self, frame: Frame) -> list[dict[str, float]]:
        """Return for each row, at most 100, what its raw columns add to the base, with ``_base`` and ``_prediction``.

        Args:
            frame: Raw columns.

        Raises:
            UnsupportedByModelError: The model carries no sample of its training records.
            TooLargeError: There are too many rows.
            InvalidRecordError: A record cannot be processed.
        """
        names = self.predictor.pipeline.dataset.raw_names
        table = _table(frame)
        records = table.select([name for name in table.column_names if name in names]).to_pylist()
        found = _waited(Explanations().explain(RecordBatch(records), self.predictor))
        return [{**each.contributions, "_base": found.base, "_prediction": each.prediction} for each in found.explanations]


def _dataset(settings: Settings) -> Dataset:
    return Dataset.load(settings.config_dir, target=settings.target)


def _waited(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of async work; in a thread, because a notebook has an event loop of its own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _loaded(settings: Settings, dataset: Dataset, *, raw: bool) -> pa.Table:
    async with await SystemClient.open(settings, "notebook") as client:
        database = DatabaseClient(client)
        collected = await _collected(database, dataset, raw=raw)
        compared = await _compared(database, dataset, settings)
        return await asyncio.to_thread(_framed, dataset, *collected, compared)


async def _collected(database: DatabaseClient, dataset: Dataset, *, raw: bool) -> tuple[SampleCollector, pa.Table | None]:
    """Return the samples of all parts, and the raw columns where they are wanted."""
    collector = SampleCollector(dataset, list(Part), listed=2**62)
    named = {raw_name(name): name for name in dataset.raw_names if name != dataset.target} if raw else {}
    wanted = [*dict.fromkeys([*(collector.raw or []), *named.values()])] or None
    pages: list[pa.Table] = []
    async for page in database.processed_pages(collector.columns, labelled=True, version=dataset.version, raw=wanted):
        await asyncio.to_thread(collector.add, page.table)
        if raw:
            pages.append(page.table.select([ID, *named]).rename_columns([ID, *named.values()]))
    return collector, pa.concat_tables(pages) if pages else None


async def _compared(database: DatabaseClient, dataset: Dataset, settings: Settings) -> Samples:
    """Return the samples that a comparison decides on, as ``ml_consumer`` chooses them."""
    few = 0 if dataset.law else settings.cross_validate_below
    found = await LabelledData(dataset, database).to_compare(settings.holdout_newest, few=few, stack=settings.stack)
    return found.holdout


def _framed(dataset: Dataset, collector: SampleCollector, raw: pa.Table | None, compared: Samples) -> pa.Table:
    decisive = _contents(compared)
    tables = []
    for part in Part:
        with contextlib.suppress(NotEnoughDataError):
            samples = collector.samples(part)
            chosen = np.zeros(len(samples), dtype=bool)
            if part == Part.HOLDOUT:
                contents = _contents(samples)
                chosen = np.isin(contents, decisive)
                if dataset.copies_together:  # of copies, the first one counts
                    _, first = np.unique(contents, return_index=True)
                    chosen &= np.isin(np.arange(len(samples)), first)
            columns = {ID: samples.keys, PART: pa.array([part.name.lower()] * len(samples)), COMPARED: pa.array(chosen)}
            if raw is None:
                columns |= {name: pa.array(samples.x[:, i]) for i, name in enumerate(dataset.feature_names)}
            else:
                rows = raw.take(pc.index_in(samples.keys, raw.column(ID)))
                columns |= {name: rows.column(name) for name in rows.column_names if name != ID}
            tables.append(pa.table({**columns, dataset.target: pa.array(samples.y)}))
    if not tables:
        raise NotEnoughDataError("There are no labelled records yet.")
    return pa.concat_tables(tables)


def _contents(samples: Samples) -> npt.NDArray[np.uint64]:
    return contents_of([*samples.x.T, samples.y], len(samples))


def _table(frame: Any) -> pa.Table:
    return frame.to_arrow() if hasattr(frame, "to_arrow") else pa.Table.from_pandas(frame, preserve_index=False)
