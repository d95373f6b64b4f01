"""Intervals around predictions that hold the truth with a given probability: split-conformal prediction.

Errors on records that the model has not seen are calibration scores: an interval of level L is the prediction plus and minus the
half width that a share of just over L of them does not exceed. Where records are few, the errors are those of the cross-validation,
else those of calibration records that are set apart before a training (:func:`set_apart`).

With n independent records the half width is the ceil((n + 1) L)-th smallest error: at least L of new records lie within, whatever the
model and the distribution (J. Lei et al., Distribution-free predictive inference for regression, JASA 113, 2018). Records of a group
are not independent of each other: each of K groups counts 1 / (K + 1), divided evenly among its records; the rest lies beyond every
error (Y. Lee, R. Barber and R. Willett, Distribution-free inference with hierarchical data, arXiv 2306.06342, 2023). That holds for a
record of a new group, and is the first formula where every group is a single record.

With a split by time, nothing is guaranteed where the future differs from the past; calibration records are the newest that a training
knows, and monitoring counts how many truths lie within (``monitoring.coverage``).

All intervals of a model have the same width. Scaling it by an estimate of each record's difficulty made intervals 0 to 14 % narrower
on public tables, which is not worth a second model that has to be kept, checked and explained.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.dataset import Dataset
from complex_system.errors import InvalidRequestError, ModelRefusedError
from complex_system.training.data import Matrix, Samples, TrainingData
from complex_system.training.grouping import Mask, last_share
from complex_system.training.out_of_fold import OutOfFold
from complex_system.training.split import Hashes, contents_of, hashes_of

INTERVALS_FILE = "intervals.json"
"""The file of a model's version that holds its :class:`Intervals`."""
SHARE, LIMIT = 0.05, 1000
"""Labelled records that are set apart for the calibration: this share of all, at most so many."""
_TYPICAL = 0.9 * LIMIT
"""Number aimed at with large data: it is a little random, and must not exceed the limit."""
_UNITS = 19
"""Independent records or groups that are set apart, at least about: with 19 the largest level is 95 %."""
_FEWEST = 9
"""With fewer, no level of 90 % can be reached, and nothing is set apart."""
_MOST = 0.15
"""Share of the training part that is set apart, at most; of the validation part, with a split by time, a third."""
_KEPT = 2000
"""Errors that are kept, at most."""
_ROUNDING = 1e-6

Method = Literal["cross-validation", "calibration records"]


class Intervals(msgspec.Struct, frozen=True):
    """Half widths by level.

    Attributes:
        method: Where the errors come from.
        records: Records whose errors they are.
        units: Groups of records that are independent of each other; as many as records where all are.
        levels: Probability that the truth lies within each half width; ascending.
        half_widths: In the target's unit; ascending.
    """

    method: Method
    records: int
    units: int
    levels: tuple[float, ...]
    half_widths: tuple[float, ...]

    @property
    def largest(self) -> float:
        """The largest level that these errors allow."""
        return self.levels[-1]

    def half_width(self, level: float) -> float:
        """Return the half width of the intervals of a level.

        Raises:
            InvalidRequestError: It is not a probability, or larger than the number of errors allows.
        """
        if not 0 < level < 1:
            raise InvalidRequestError(
                f"The level of an interval is a probability between 0 and 1, such as 0.9, not {level:g}."
            )
        if level > self.largest + _ROUNDING:
            of = f"{self.records} records" + (f" of {self.units} groups" if self.units < self.records else "")
            raise InvalidRequestError(
                f"An interval of level {level:g} cannot be given: the model's errors are known of {of}, which allows at most "
                f"{math.floor(self.largest * 1e4 + 0.01) / 1e4:g}."
            )
        return self.half_widths[bisect_left(self.levels, level - _ROUNDING)]

    def encoded(self) -> bytes:
        """Return it as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decoded(cls, content: bytes) -> Intervals:
        """Return what :meth:`encoded` wrote.

        Raises:
            ModelRefusedError: The content is not that.
        """
        try:
            found = msgspec.json.decode(content, type=cls)
        except msgspec.MsgspecError as error:
            raise ModelRefusedError(f"{INTERVALS_FILE} cannot be read: {error}") from error
        levels, widths = np.array(found.levels), np.array(found.half_widths)
        if not 0 < len(levels) == len(widths) or np.any(np.diff(levels) < 0) or np.any(np.diff(widths) < 0):
            raise ModelRefusedError(f"{INTERVALS_FILE} cannot be read: levels and half widths do not ascend together.")
        return found


def intervals_of(errors: npt.NDArray[Any], groups: npt.NDArray[Any] | None, method: Method) -> Intervals:
    """Return the intervals for errors on records that the model has not seen.

    Args:
        errors: Prediction less truth, shape (n,), or (repeats, n) where every record was predicted several times; then each of its
            errors counts that many times less.
        groups: The group of every record; None where each is one of its own.
        method: Where the errors come from.
    """
    sizes = np.abs(np.atleast_2d(errors).astype(np.float64))
    repeats, records = sizes.shape
    _, numbers, counts = np.unique(np.arange(records) if groups is None else groups, return_inverse=True, return_counts=True)
    weights = np.tile(1 / ((len(counts) + 1) * counts[numbers] * repeats), repeats)
    order = np.argsort(sizes, axis=None, kind="stable")
    # The first of those left out has the half width of the next one kept, which is too wide and never too narrow.
    kept = np.unique(np.linspace(0, len(order) - 1, min(_KEPT, len(order))).round().astype(np.intp))
    levels, widths = np.cumsum(weights[order])[kept], sizes.ravel()[order][kept]
    return Intervals(
        method,
        records,
        len(counts),
        levels=tuple(float(f"{each:.8g}") for each in levels),
        half_widths=tuple(float(f"{each:.6g}") for each in widths),
    )


def interval_files(
    dataset: Dataset, predict: Callable[[Matrix], Matrix], data: TrainingData, crossed: OutOfFold | None
) -> dict[str, bytes]:
    """Return the file with a model's intervals by its name; none where there are no records to calibrate with.

    Args:
        dataset: What the model is for.
        predict: The model.
        data: What it was trained on, with the samples that were set apart.
        crossed: Its cross-validation, where the records are few.
    """
    if crossed is not None:
        found = intervals_of(crossed.errors, crossed.units, "cross-validation")
    elif data.calibration is not None:
        errors = predict(data.calibration.x) - data.calibration.y
        units = _units(data.calibration, alike=dataset.copies_together)
        found = intervals_of(errors, units, "calibration records")
    else:
        return {}
    return {INTERVALS_FILE: found.encoded()}


def set_apart(dataset: Dataset, data: TrainingData, labelled: int = 0, *, sample: bool = False) -> TrainingData:
    """Return training data without the calibration records, and these beside them; as they are where they are too few.

    The records are those with the smallest hash of what they are. So every trainer sets the same ones apart, and one that has some
    newer records sets none apart that the others have trained on. Copies and groups stay together. With
    a split by time they are the newest of the validation part, so that they are predicted from the past, and the training loses none.

    Args:
        dataset: Declares the split.
        data: Training and validation part, or a sample of them.
        labelled: All labelled records; estimated from the parts unless given.
        sample: Whether the parts are an even sample, by a split by key, and beside it all records of :func:`are_calibration`. Then
            none is taken instead of those that are missing: the others may have trained on it.
    """
    by_time = dataset.split.by == "time"
    part = data.validation if by_time else data.train
    share = _share(labelled or (len(data.train) + len(data.validation)) / 0.85)
    if by_time:
        assert part.times is not None
        chosen = part.times >= last_share(part.times, max(share * len(part) / 0.15, _UNITS))
        enough = _FEWEST <= chosen.sum() <= len(part) / 3
    else:
        units = _units(part, alike=dataset.copies_together)
        limit = _MOST * (0.7 * labelled if sample else len(part))
        chosen = _chosen(units, share / 0.7, limit, fewest=0 if sample else _UNITS)
        enough = bool(chosen.any())
    if not enough:
        return data
    rest, calibration = part.of(~chosen), part.of(chosen)
    if by_time:
        return replace(data, validation=rest, calibration=calibration)
    return replace(data, train=rest, calibration=calibration)


def set_apart_by_content(dataset: Dataset, data: TrainingData, labelled: int) -> TrainingData:
    """Return a share of many records, with a split by key, as :func:`set_apart` returns all of them, but for second copies.

    Args:
        dataset: Declares the split.
        data: The share.
        labelled: Labelled records of all shares.
    """
    chosen = _places(_units(data.train, alike=dataset.copies_together)) < _threshold(_share(labelled) / 0.7)
    return replace(data, train=data.train.of(~chosen), calibration=data.train.of(chosen))


def are_calibration(dataset: Dataset, table: pa.Table, labelled: int) -> Mask:
    """Return which records of a page :func:`set_apart` takes where they are in the training part, but for second copies.

    Args:
        dataset: Declares a split by key.
        table: Processed records with features and target.
        labelled: All labelled records.
    """
    units = hashes_of(dataset, table)[1]
    if not dataset.copies_together:
        units = contents_of([np.zeros(len(units))], len(units), units)
    return _places(units) < _threshold(_share(labelled) / 0.7)


def _share(labelled: float) -> float:
    return min(SHARE, _TYPICAL / max(1.0, labelled))


def _threshold(share: float) -> np.uint64:
    return np.uint64(share * 2.0**64)


def _places(units: Hashes) -> Hashes:
    """Return the order in which units are chosen: not that of their hashes, by which groups are divided into parts."""
    return units * np.uint64(0x9E3779B97F4A7C15)


def _units(samples: Samples, *, alike: bool) -> Hashes:
    """Return a hash of what each sample is not independent of: its group, or the content that ``alike`` copies share."""
    if samples.groups is not None:
        return samples.groups
    contents = contents_of([*samples.x.T, samples.y], len(samples))
    if alike:
        return contents
    # The first, second ... of each content.
    order = np.argsort(contents, kind="stable")
    first = np.concatenate([[True], np.diff(contents[order]) != 0])
    places = np.arange(len(contents))
    numbers = np.empty(len(contents))
    numbers[order] = places - np.maximum.accumulate(np.where(first, places, 0))
    return contents_of([numbers], len(contents), contents)


def _chosen(units: Hashes, share: float, limit: float, fewest: int) -> Mask:
    """Choose this share of the units by the order of their hashes, ``fewest`` at least, with ``limit`` records at most; or none."""
    names, numbers, sizes = np.unique(units, return_inverse=True, return_counts=True)
    places = _places(names)
    order = np.argsort(places, kind="stable")
    below = int(np.searchsorted(places[order], _threshold(share)))
    count = min(max(below, fewest), int(np.searchsorted(np.cumsum(sizes[order]), min(limit, LIMIT), "right")))
    chosen = np.zeros(len(names), dtype=np.bool_)
    if count >= _FEWEST:
        chosen[order[:count]] = True
    return chosen[numbers]
