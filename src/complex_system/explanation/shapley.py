"""Shapley values of one prediction by raw column, for any model that predicts from features.

A coalition is a set of raw columns that have the record's values; the others have those of a background record. The value of a
coalition is the mean prediction over the background records. So columns are taken as independent of each other (interventional
values): Janzing, Minorics and Bloebaum, "Feature relevance quantification in explainable AI: a causal problem", AISTATS 2020.

Up to ``EXACT_COLUMNS`` columns all coalitions are evaluated, which is exact for this background. For more, each background record
has random orders of the columns, each forwards and backwards; in an order a column's contribution is the change of the prediction
where it takes the record's value (Strumbelj and Kononenko, Knowl. Inf. Syst. 41, 2014). Along every order these add up to the
prediction less that of the background record, so the contributions add up to the prediction less the base in both ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from complex_system.domain.columns import ID
from complex_system.domain.records import Record
from complex_system.explanation.columns import raw_columns
from complex_system.pipeline.pipeline import Pipeline
from complex_system.pipeline.rows import Matrix
from complex_system.protocol.serving import ExplainedPrediction, ExplanationMethod

EXACT_COLUMNS = 10
"""Columns up to which all coalitions are evaluated."""
BACKGROUND = 100
"""Background records, at most."""
MIN_BACKGROUND = 8
"""Background records where there are very many columns."""
PAIRS = 2
"""Orders of each background record, each of them forwards and backwards."""
ROWS = {"exact": 32_768, "sampled": 16_384}
"""Predictions for one record, at most about: with more columns there are fewer background records."""
_CELLS = 4_000_000
"""Values of the coalitions that are held at the same time."""
_SEED = 15

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]
"""Columns that have the record's value, shape (rows, columns)."""
Places = npt.NDArray[np.intp]
"""Positions of background records, one a row."""


class Explainer:
    """Explains the predictions of one model. Safe to use from several threads.

    Attributes:
        base: Mean prediction of the background records, in the target's unit.
        size: Number of background records.
        method: Whether all coalitions are evaluated.
    """

    def __init__(self, pipeline: Pipeline, predict: Callable[[Matrix], list[float]], sample: pa.Table) -> None:
        """Choose the background and predict it. Blocking.

        Args:
            pipeline: Makes the model's features.
            predict: Returns one prediction for each row of features.
            sample: Raw records; the background is an even choice of them.

        Raises:
            InvalidRequestError, InvalidRecordError: The sample is empty, or is not of the pipeline's data set.
        """
        self._pipeline, self._predict = pipeline, predict
        self._columns = raw_columns(pipeline.dataset)
        count = len(self._columns.names)
        self.method: ExplanationMethod = "exact" if count <= EXACT_COLUMNS else "sampled"
        each = 2**count if self.method == "exact" else 2 * PAIRS * count
        self.size = min(sample.num_rows, BACKGROUND, max(MIN_BACKGROUND, ROWS[self.method] // each))
        chosen = np.linspace(0, sample.num_rows - 1, self.size).astype(np.int64)
        self._raw = pipeline.typed(sample.take(pa.array(chosen)))
        self._background = pipeline.features_of(self._raw)
        self._predictions = np.asarray(predict(self._background), dtype=np.float64)
        self.base = float(self._predictions.mean())
        draw = np.random.default_rng(_SEED)
        orders = [draw.permutation(count) for _ in range(PAIRS * self.size)] if self.method == "sampled" else []
        self._orders = np.array([order[::step] for order in orders for step in (1, -1)], dtype=np.intp)

    def explain(self, record: Record, features: Matrix) -> ExplainedPrediction:
        """Explain the prediction of a record.

        Args:
            record: Raw, and such that it can be processed.
            features: Its features, shape (1, F).
        """
        [prediction] = self._predict(features)
        run = _Run(self, record, features)
        found = (run.exact if self.method == "exact" else run.sampled)(prediction)
        contributions = dict(zip(self._columns.names, found.tolist(), strict=True))
        return ExplainedPrediction(prediction=prediction, contributions=contributions)


class _Run:
    """The explanation of one record."""

    def __init__(self, explainer: Explainer, record: Record, features: Matrix) -> None:
        self._explainer, self._features = explainer, features
        columns = explainer._columns
        self._owner, self._joint = columns.owner, columns.joint
        # Whether a background record and the record differ in a column. What joint features are made of counts as different.
        differs = features != explainer._background
        self._differs = (differs.astype(np.float32) @ columns.uses.astype(np.float32)) > 0
        if len(self._joint):
            self._differs |= columns.uses[self._joint].any(axis=0)
            used = [column for column in explainer._raw.columns if column != ID]
            own = pl.DataFrame({name: [record.get(name)] for name in used}, strict=False)
            # The record is row 0, and the background follows it.
            self._raw = pl.concat([explainer._pipeline.typed(own), explainer._raw])

    def exact(self, prediction: float) -> Floats:
        """Return the contributions by all coalitions.

        A coalition is an integer with a bit for each column; columns in which the two records do not differ are added to it, so that
        each different row is predicted once.
        """
        explainer, count = self._explainer, len(self._explainer._columns.names)
        bits = 1 << np.arange(count)
        coalitions = np.arange(1 << count)
        reached = coalitions | (~self._differs @ bits)[:, np.newaxis]
        values = np.full((explainer.size, len(coalitions)), np.nan)
        wanted = np.zeros(values.shape, dtype=bool)
        np.put_along_axis(wanted, reached, values=True, axis=1)
        wanted[:, -1], wanted[np.arange(explainer.size), reached[:, 0]] = False, False
        places, chosen = np.nonzero(wanted)
        values[places, chosen] = self._predicted(places, chosen[:, np.newaxis] & bits != 0)
        values[np.arange(explainer.size), reached[:, 0]] = explainer._predictions
        values[:, -1] = prediction
        value = np.take_along_axis(values, reached, axis=1).mean(axis=0)
        value[0] = explainer.base  # also where the record and a background record are the same
        sizes = (coalitions[:, np.newaxis] & bits != 0).sum(axis=1)
        weights = np.array([1 / (count * math.comb(count - 1, size)) for size in range(count)])
        found = np.empty(count)
        for column, bit in enumerate(bits):
            without = coalitions[coalitions & bit == 0]
            found[column] = weights[sizes[without]] @ (value[without | bit] - value[without])
        return found

    def sampled(self, prediction: float) -> Floats:
        """Return the contributions by the explainer's orders; a step that changes nothing is not predicted."""
        orders = self._explainer._orders
        count = orders.shape[1]
        block = max(1, _CELLS // count**2)
        found = np.zeros(count)
        for start in range(0, len(orders), block):
            part = orders[start : start + block]
            places = np.arange(start, start + len(part)) // (2 * PAIRS)
            values = np.empty((len(part), count + 1))
            values[:, 0], values[:, -1] = self._explainer._predictions[places], prediction
            wanted = np.take_along_axis(self._differs[places], part, axis=1)
            wanted[:, -1] = False
            walks, steps = np.nonzero(wanted)
            has_changed = np.argsort(part, axis=1)[walks] <= steps[:, np.newaxis]
            values[walks, steps + 1] = self._predicted(places[walks], has_changed)
            known = np.zeros(values.shape, dtype=np.intp)
            known[walks, steps + 1] = steps + 1
            known = np.maximum.accumulate(known, axis=1)
            known[:, -1] = count
            values = np.take_along_axis(values, known, axis=1)
            found += np.bincount(part.ravel(), np.diff(values, axis=1).ravel(), minlength=count)
        return found / len(orders)

    def _predicted(self, places: Places, masks: Masks) -> Floats:
        """Return the predictions of background records in which columns have the record's values."""
        if not len(places):
            return np.empty(0)
        explainer = self._explainer
        rows = np.where(masks[:, self._owner], self._features, explainer._background[places])
        if len(self._joint):
            taken = [
                self._raw.select(pl.col(member).gather(np.where(masks[:, column], 0, places + 1)))
                for column, members in enumerate(explainer._columns.members)
                for member in members
            ]
            rest = self._raw.select(pl.exclude(*(frame.columns[0] for frame in taken)).gather(places + 1))
            mixed = pl.concat([*taken, rest], how="horizontal")
            rows[:, self._joint] = explainer._pipeline.features_of(mixed)[:, self._joint]
        return np.asarray(explainer._predict(rows), dtype=np.float64)
