"""Drift: predicted records against the champion's training data, column by column and feature by feature.

The stability index is the figure that people know; what raises an alert is the evidence (:mod:`complex_system.monitoring.evidence`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from scipy.special import kolmogorov

from complex_system.domain.dataset import Column, Dataset
from complex_system.domain.records import Record
from complex_system.monitoring.evidence import SURE, Evidence, SequentialTest
from complex_system.monitoring.moves import clock_features, columns_of_features, move_of
from complex_system.monitoring.points import Figures
from complex_system.monitoring.reference import (
    CategoryReference,
    ColumnReference,
    Counts,
    NumberReference,
    Reference,
    Values,
    binned,
    columns_of,
    drawn_count,
)
from complex_system.protocol.base import Message
from complex_system.training.data import Matrix

MIN_LIVE = 30
"""Fewest records in the live window for which drift is reported; below, it is noise."""
LARGE_WINDOW = 500
"""From so many values on the distance is Wasserstein's; below, Kolmogorov and Smirnov test whether it is chance."""
MODERATE, SIGNIFICANT = 0.1, 0.25
"""Bounds of the conventional bands of the stability index."""
DESCRIBED = 1.0
"""Evidence from which on it is said what has moved."""

Band = Literal["stable", "moderate", "significant"]


class DriftTest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Beside the stability index: a test of few values, a distance of many.

    Attributes:
        name: ``ks`` (Kolmogorov and Smirnov) or ``wasserstein``.
        statistic: Of ``ks``.
        p_value: Of ``ks``.
        distance: Of ``wasserstein``, in standard deviations of the reference.
    """

    name: Literal["ks", "wasserstein"]
    statistic: float | None = None
    p_value: float | None = None
    distance: float | None = None


class ColumnDrift(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A column, or a feature, of the live records beside the reference.

    Attributes:
        type: ``indicator`` is a boolean, or a feature that is 0 or 1.
        samples: Live records.
        missing: Share of them without a value.
        missing_reference: The same of the reference.
        reference: Shares of the reference by bin or category.
        live: Shares of the live records over the same bins or categories.
        edges: Of the bins of a number.
        categories: Bins of a category.
        follows_clock: Whether it is a part of a time, such as the hour or the month. The last hundred predictions are of one hour and
            one month, and the training data of many: that is not drift, so index, band and test are None.
        psi: Stability index; None while fewer than ``MIN_LIVE`` values are there.
        band: How strong it is.
        test: Of numbers that are not indicators.
        out_of_range: Share outside of the declared range; None where none is declared.
        new_categories: Live records by category that is not declared; None for a number.
        evidence: That a feature has moved, or of a column the feature with most; None where none is judged.
    """

    type: Literal["number", "indicator", "category"]
    samples: int
    missing: float
    missing_reference: float
    reference: list[float]
    live: list[float]
    edges: list[float] = msgspec.field(default_factory=list)
    categories: list[str] = msgspec.field(default_factory=list)
    follows_clock: bool = False
    psi: float | None = None
    band: Band | None = None
    test: DriftTest | None = None
    out_of_range: float | None = None
    new_categories: dict[str, int] | None = None
    evidence: Evidence | None = None


class DataDrift(Message, frozen=True, kw_only=True):
    """The live records beside the reference.

    Attributes:
        raw: By raw column.
        processed: By feature.
        samples: Live records.
        reference_samples: Records of the reference.
        at: When it was measured, seconds since 1970 (UTC).
        source: Where the reference comes from: ``champion`` or ``database``.
        independent: Whether records are taken as independent, because a reference of an earlier release does not say otherwise.
        unjudged: Independent records that the reference is worth, by feature for which these are too few for evidence.
    """

    raw: dict[str, ColumnDrift] = msgspec.field(default_factory=dict)
    processed: dict[str, ColumnDrift] = msgspec.field(default_factory=dict)
    samples: int = 0
    reference_samples: int = 0
    at: float = 0.0
    source: str = ""
    independent: bool = False
    unjudged: dict[str, float] = msgspec.field(default_factory=dict)

    @property
    def has_moved(self) -> bool:
        """True where the evidence for a feature is as much as the shipped rule asks for."""
        return any(each.evidence is not None and each.evidence.value >= SURE for each in self.processed.values())

    def figures(self) -> Figures:
        """Return figures.

        ``drift/evidence`` and ``drift/psi`` by feature, the largest of them ``drift/evidence_max`` and ``drift/psi_max``; by column
        ``data/psi``, the largest ``data/psi_max``, ``data/missing``, ``data/missing_excess`` (beyond the reference's),
        ``data/out_of_range``, ``data/new_category`` (shares of the window), ``data/ks_p_value`` or ``data/wasserstein``;
        ``data/samples``, ``drift/samples``, and ``drift/judged``: these or the
        reference's records, whichever are fewer, for an index of few records on either side is above its bands by chance.
        """
        figures = Figures()
        figures.add("drift", {"samples": self.samples, "judged": min(self.samples, self.reference_samples)})
        figures.add("data", {"samples": self.samples})
        for group, columns in (("drift", self.processed), ("data", self.raw)):
            indices = {name: each.psi for name, each in columns.items() if each.psi is not None}
            for name, index in indices.items():
                figures.add(group, {"psi": index}, name)
            if indices:
                figures.add(group, {"psi_max": max(indices.values())})
        evidence = {name: each.evidence.value for name, each in self.processed.items() if each.evidence is not None}
        for name, value in evidence.items():
            figures.add("drift", {"evidence": value}, name)
        if evidence:
            figures.add("drift", {"evidence_max": max(evidence.values())})
        for name, each in self.raw.items():
            test = each.test or DriftTest(name="ks")
            measured = {
                "missing": each.missing,
                "missing_excess": max(0.0, each.missing - each.missing_reference),
                "out_of_range": each.out_of_range,
                "new_category": _share_of_new(each),
                "ks_p_value": test.p_value,
                "wasserstein": test.distance,
            }
            figures.add("data", {key: number for key, number in measured.items() if number is not None}, name)
        return figures


def population_stability_index(reference: Counts, live: Counts) -> float:
    """Return the population stability index of two histograms over the same bins.

    PSI = sum over the bins of (l - r) * ln(l / r), with the shares r of the reference and l of the live records. Source: N.
    Siddiqi, Credit Risk Scorecards (Wiley, 2006); it is the Jeffreys divergence of the two histograms (H. Jeffreys, 1946).
    The conventional reading is: below 0.1 no change, 0.1 to 0.25 some, above 0.25 a major change.

    A bin that is empty on one side counts as half a record there, so that the logarithm exists and an empty bin of a small sample
    raises no alarm; a bin that is empty on both sides does not count. Without any drift the expected value is still about
    (bins - 1) * (1 / n_reference + 1 / n_live) (B. Yurdakul, 2018).

    Args:
        reference: Counts of the bins, not all zero.
        live: Counts of the same bins, not all zero.
    """
    used = (reference > 0) | (live > 0)
    r, n = (np.maximum(counts[used], 0.5) / counts.sum() for counts in (reference, live))
    return float(np.sum((n - r) * np.log(n / r)))


def band_of(index: float) -> Band:
    """Return the band of a stability index: ``stable`` below 0.1, ``moderate`` up to 0.25, ``significant`` beyond."""
    if index < MODERATE:
        return "stable"
    return "moderate" if index <= SIGNIFICANT else "significant"


def kolmogorov_smirnov(reference: NumberReference, live: Values) -> tuple[float, float]:
    """Return statistic and p-value of the two-sample test.

    D is the largest distance of the two distribution functions, the reference's drawn through its quantiles, and p = K(sqrt(n m / (n +
    m)) D) with Kolmogorov's limiting distribution K (N. V. Smirnov, 1939), good from some tens of values on. It assumes a continuous
    number.
    """
    ordered = np.sort(live)
    shares = np.linspace(0, 1, len(reference.quantiles))
    at = np.interp(ordered, reference.quantiles, shares, left=0.0, right=1.0)
    n = len(ordered)
    steps = np.arange(n + 1) / n
    statistic = float(max(np.max(steps[1:] - at), np.max(at - steps[:-1]), 0.0))
    m = reference.samples * (1 - reference.missing)
    return statistic, float(kolmogorov(np.sqrt(n * m / (n + m)) * statistic))


def wasserstein_distance(first: Sequence[float] | Values, second: Sequence[float] | Values) -> float:
    """Return the first Wasserstein distance of two samples: the area between their distribution functions.

    It is :func:`scipy.stats.wasserstein_distance`; that module takes as long to import as all else that monitoring needs.
    """
    samples = [np.sort(np.asarray(each, dtype=np.float64)) for each in (first, second)]
    both = np.sort(np.concatenate(samples))
    at = [np.searchsorted(each, both[:-1], side="right") / len(each) for each in samples]
    return float(np.sum(np.abs(at[0] - at[1]) * np.diff(both)))


def measure(
    dataset: Dataset,
    reference: Reference,
    records: Sequence[Record],
    features: Matrix,
    test: SequentialTest | None = None,
) -> DataDrift:
    """Return live records beside a reference.

    Args:
        dataset: Declares columns and features.
        reference: What the champion was trained on.
        records: Raw records that were predicted, the newest last.
        features: Of those, shape (n, features).
        test: Has been told of the records.
    """
    live = columns_of(dataset, records)
    raw = {
        name: _column(dataset.column(name), reference.raw[name], values)
        for name, values in live.items()
        if name in reference.raw
    }
    of_clock = clock_features(dataset)
    processed = {
        name: _number(column, features[:, i].astype(np.float64), follows_clock=name in of_clock)
        for i, name in enumerate(dataset.feature_names)
        if isinstance(column := reference.processed.get(name), NumberReference)
    }
    columns = columns_of_features(dataset)
    for name, found in (test.evidence() if test else {}).items():
        move = None
        if found.value >= DESCRIBED:
            values = features[:, dataset.feature_names.index(name)].astype(np.float64)
            move = move_of(name, columns.get(name, ""), reference, values, live, found.records)
        each = msgspec.structs.replace(found, move=move)
        processed[name] = msgspec.structs.replace(processed[name], evidence=each)
        measured = raw.get(columns.get(name, ""))
        if measured is not None and (measured.evidence is None or measured.evidence.value < each.value):
            raw[columns[name]] = msgspec.structs.replace(measured, evidence=each)
    return DataDrift(
        raw=raw,
        processed=processed,
        samples=len(records),
        reference_samples=reference.samples,
        source=reference.source,
        independent=test is not None and test.independent,
        unjudged=test.unjudged if test else {},
    )


def _column(column: Column, reference: ColumnReference, values: Any) -> ColumnDrift:
    if isinstance(reference, CategoryReference):
        return _category(reference, values, column.categories)
    measured = _number(reference, values)
    if column.range is None:
        return measured
    known = values[np.isfinite(values)]
    low, high = column.range
    share = float(np.mean((known < low) | (known > high))) if len(known) else 0.0
    return msgspec.structs.replace(measured, out_of_range=share)


def _number(reference: NumberReference, values: Values, *, follows_clock: bool = False) -> ColumnDrift:
    known = values[np.isfinite(values)]
    index: float | None = None
    test: DriftTest | None = None
    if len(known) >= MIN_LIVE and not follows_clock:
        index = population_stability_index(reference.counts, binned(known, reference.edges))
        test = None if reference.indicator else _test(reference, known)
    return ColumnDrift(
        type="indicator" if reference.indicator else "number",
        samples=len(values),
        missing=1 - len(known) / len(values) if len(values) else 0.0,
        missing_reference=reference.missing,
        edges=reference.drawn_edges.tolist(),
        reference=_shares(reference.drawn_counts),
        live=_shares(drawn_count(known, reference.drawn_edges)),
        follows_clock=follows_clock,
        psi=index,
        band=None if index is None else band_of(index),
        test=test,
    )


def _test(reference: NumberReference, known: Values) -> DriftTest:
    if len(known) < LARGE_WINDOW:
        statistic, p_value = kolmogorov_smirnov(reference, known)
        return DriftTest(name="ks", statistic=statistic, p_value=p_value)
    distance = wasserstein_distance(known, reference.quantiles) / (reference.deviation or 1.0)
    return DriftTest(name="wasserstein", distance=distance)


def _category(reference: CategoryReference, values: list[str | None], declared: Sequence[str]) -> ColumnDrift:
    present = Counter(value for value in values if value is not None)
    known = [*reference.counts]
    counts = np.array([present[name] for name in known] + [sum(n for name, n in present.items() if name not in known)])
    expected = np.array([*reference.counts.values(), 0])
    enough = present.total() >= MIN_LIVE and expected.sum() > 0
    index = population_stability_index(expected, counts) if enough else None
    shown = len(counts) if counts[-1] else len(known)
    return ColumnDrift(
        type="category",
        samples=len(values),
        missing=1 - present.total() / len(values) if values else 0.0,
        missing_reference=reference.missing,
        categories=[*known, "other"][:shown],
        reference=_shares(expected[:shown]),
        live=_shares(counts[:shown]),
        psi=index,
        band=None if index is None else band_of(index),
        new_categories={value: n for value, n in present.items() if value not in declared},
    )


def _share_of_new(column: ColumnDrift) -> float | None:
    return None if column.new_categories is None else sum(column.new_categories.values()) / max(1, column.samples)


def _shares(counts: Counts) -> list[float]:
    shares: list[float] = (counts / max(1, int(counts.sum()))).tolist()
    return shares
