"""Drift: what is predicted against what the champion was trained on, column by column and feature by feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import kolmogorov
from scipy.stats import wasserstein_distance

from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
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
from complex_system.training.data import Matrix

MIN_LIVE = 30
"""Fewest records in the live window for which drift is reported; below, it is noise."""
LARGE_WINDOW = 500
"""From so many values on the distance is Wasserstein's; below, Kolmogorov and Smirnov test whether it is chance."""
MODERATE, SIGNIFICANT = 0.1, 0.25
"""Where the conventional bands of the stability index end and begin."""


def population_stability_index(reference: Counts, live: Counts) -> float:
    """The population stability index of two histograms over the same bins.

    PSI = sum over the bins of (l - r) * ln(l / r), with the shares r of the reference and l of the live records. Source: N.
    Siddiqi, Credit Risk Scorecards (Wiley, 2006); it is the Jeffreys divergence of the two histograms (H. Jeffreys, 1946).
    The conventional reading is: below 0.1 no change, 0.1 to 0.25 some, above 0.25 a major change.

    A bin that is empty on one side counts as half a record there, so that the logarithm exists and a small sample's empty bin is no
    alarm; a bin that is empty on both sides counts nothing. Without any
    drift the expected value is still about (bins - 1) * (1 / n_reference + 1 / n_live) (B. Yurdakul, 2018).

    Args:
        reference: Counts of the bins, not all zero.
        live: Counts of the same bins, not all zero.
    """
    used = (reference > 0) | (live > 0)
    r, n = (np.maximum(counts[used], 0.5) / counts.sum() for counts in (reference, live))
    return float(np.sum((n - r) * np.log(n / r)))


def band(index: float) -> str:
    """``stable`` below 0.1, ``moderate`` up to 0.25, ``significant`` beyond."""
    if index < MODERATE:
        return "stable"
    return "moderate" if index <= SIGNIFICANT else "significant"


def kolmogorov_smirnov(reference: NumberReference, live: Values) -> tuple[float, float]:
    """Statistic and p-value of the two-sample test.

    D is the largest distance of the two distribution functions, the reference's drawn through its quantiles, and p = K(sqrt(n m / (n +
    m)) D) with Kolmogorov's limiting distribution K (N. V. Smirnov, 1939), good from some tens of values on. It supposes a continuous
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


class DataWindow:
    """Measures live records against a reference."""

    def __init__(self, dataset: Dataset, reference: Reference) -> None:
        self._dataset = dataset
        self.reference = reference

    def measure(self, records: Sequence[Record], features: Matrix) -> dict[str, Any]:
        """What the page and the metrics are made of.

        Args:
            records: Raw records that were predicted.
            features: Of those, shape (n, features).

        Returns:
            ``{"raw": {column: measures}, "processed": {feature: measures}, "samples": n, "reference_samples": m}``; measures are
            ``type``, ``missing``, ``missing_reference``, the histograms ``reference`` and ``live`` (shares over the same bins,
            ``edges`` or ``categories``)
            and, from ``MIN_LIVE`` records on, ``psi``, ``band`` and for numbers that are no indicators ``test`` (``ks``: ``statistic``
            and ``p_value``; or ``wasserstein``: ``distance`` in standard deviations of the reference). Numbers with a declared range
            have ``out_of_range``, categories ``new_categories``: ``{value: count}``.
        """
        raw = {
            name: self._measured(name, self.reference.raw[name], values)
            for name, values in columns_of(self._dataset, records).items()
            if name in self.reference.raw
        }
        processed = {
            name: _number(self.reference.processed[name], features[:, i].astype(np.float64))
            for i, name in enumerate(self._dataset.feature_names)
            if isinstance(self.reference.processed.get(name), NumberReference)
        }
        return {"raw": raw, "processed": processed, "samples": len(records), "reference_samples": self.reference.samples}

    def _measured(self, name: str, reference: ColumnReference, values: Any) -> dict[str, Any]:
        column = self._dataset.column(name)
        if isinstance(reference, CategoryReference):
            return _category(reference, values, column.categories)
        measures = _number(reference, values)
        if column.range is not None:
            known = values[np.isfinite(values)]
            low, high = column.range
            measures["out_of_range"] = float(np.mean((known < low) | (known > high))) if len(known) else 0.0
        return measures


def _number(reference: Any, values: Values) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    measures: dict[str, Any] = {
        "type": "indicator" if reference.indicator else "number",
        "samples": len(values),
        "missing": 1 - len(known) / len(values) if len(values) else 0.0,
        "missing_reference": reference.missing,
        "edges": reference.drawn_edges.tolist(),
        "reference": _shares(reference.drawn_counts),
        "live": _shares(drawn_count(known, reference.drawn_edges)),
    }
    if len(known) < MIN_LIVE:
        return measures
    index = population_stability_index(reference.counts, binned(known, reference.edges))
    measures |= {"psi": index, "band": band(index)}
    if not reference.indicator:
        if len(known) < LARGE_WINDOW:
            statistic, p_value = kolmogorov_smirnov(reference, known)
            measures["test"] = {"name": "ks", "statistic": statistic, "p_value": p_value}
        else:
            distance = float(wasserstein_distance(known, reference.quantiles)) / (reference.deviation or 1.0)
            measures["test"] = {"name": "wasserstein", "distance": distance}
    return measures


def _category(reference: CategoryReference, values: list[str | None], declared: Sequence[str]) -> dict[str, Any]:
    present = [value for value in values if value is not None]
    known = [*reference.counts]
    new: dict[str, int] = {}
    for value in present:
        if value not in declared:
            new[value] = new.get(value, 0) + 1
    counts = np.array([present.count(name) for name in known] + [len(present) - sum(present.count(name) for name in known)])
    expected = np.array([*reference.counts.values(), 0])
    measures: dict[str, Any] = {
        "type": "category",
        "samples": len(values),
        "missing": 1 - len(present) / len(values) if values else 0.0,
        "missing_reference": reference.missing,
        "categories": [*known, "other"] if counts[-1] else known,
        "reference": _shares(expected if counts[-1] else expected[:-1]),
        "live": _shares(counts if counts[-1] else counts[:-1]),
        "new_categories": new,
    }
    if len(present) >= MIN_LIVE and expected.sum():
        index = population_stability_index(expected, counts)
        measures |= {"psi": index, "band": band(index)}
    return measures


def drift_metrics(measured: Mapping[str, Any]) -> dict[str, float]:
    """Flat metrics of what :meth:`DataWindow.measure` returned.

    ``drift/psi/<feature>`` and ``drift/psi_max`` of the processed features, ``data/psi/<column>`` of the raw columns,
    ``data/psi_max``, ``data/missing/<column>``, ``data/missing_excess/<column>`` (beyond the reference's),
    ``data/out_of_range/<column>``, ``data/new_category/<column>`` (shares of the window), ``data/ks_p_value/<column>`` or
    ``data/wasserstein/<column>``, ``drift/samples``, and ``drift/judged``: these or the reference's records, whichever are fewer, for
    an index of few records on either side is above its bands by chance.
    """
    metrics = {
        "drift/samples": float(measured["samples"]),
        "drift/judged": float(min(measured["samples"], measured["reference_samples"])),
    }
    for prefix, part in (("drift", "processed"), ("data", "raw")):
        indices = {name: each["psi"] for name, each in measured[part].items() if "psi" in each}
        metrics |= {f"{prefix}/psi/{name}": index for name, index in indices.items()}
        if indices:
            metrics[f"{prefix}/psi_max"] = max(indices.values())
    for name, each in measured["raw"].items():
        metrics[f"data/missing/{name}"] = each["missing"]
        metrics[f"data/missing_excess/{name}"] = max(0.0, each["missing"] - each["missing_reference"])
        if "out_of_range" in each:
            metrics[f"data/out_of_range/{name}"] = each["out_of_range"]
        if "new_categories" in each:
            metrics[f"data/new_category/{name}"] = sum(each["new_categories"].values()) / max(1, each["samples"])
        test = each.get("test")
        if test is not None:
            measure, value = ("ks_p_value", "p_value") if test["name"] == "ks" else ("wasserstein", "distance")
            metrics[f"data/{measure}/{name}"] = test[value]
    return metrics


def _shares(counts: Counts) -> list[float]:
    shares: list[float] = (counts / max(1, int(counts.sum()))).tolist()
    return shares
