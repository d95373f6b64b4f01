"""Looks at the labels before a training: which of them are probably wrong. None is left out; the declaration decides that."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.outliers import MIN_VALUES, OUTLIER, Extremes, RobustScale, outliers_of, sentinels_of
from complex_system.protocol.labels import SuspectTarget, SuspectTargets

NAMED = 20
"""Records that are named."""
_SHOWN = 5
"""Records that a message names."""


def targets_message(suspects: SuspectTargets) -> str:
    """Return what people must know of labels that look wrong; empty where none does."""
    if not suspects.count:
        return ""
    few, look = suspects.named[:_SHOWN], "looks" if suspects.count == 1 else "look"
    keys = [f"{each.value:g} of record {each.id} ({each.why})" for each in few]
    more = f"; and {suspects.count - len(few)} more" if suspects.count > len(few) else ""
    return (
        f"{suspects.count} of {suspects.records} labels {look} wrong: {'; '.join(keys)}{more}. All are used: correct them, or declare "
        f"missing_values or a narrower range for '{suspects.target}'."
    )


class TargetCheck:
    """Collects the targets of labelled records, and finds those that lie far from all others, repeat like a code, or exceed the range.

    The rules are those of the data-quality report (``domain.outliers``). The keys of the lowest and highest values only are kept.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._column = dataset.column(dataset.target)
        self._values: list[npt.NDArray[np.float64]] = []
        self._extremes = Extremes()
        self._keys: dict[int, str] = {}
        self._records = 0

    def add(self, table: pa.Table) -> None:
        """Take a page of labelled processed records with their keys."""
        values = table.column(self._column.name).to_numpy().astype(np.float64)
        first, self._records = self._records, self._records + len(values)
        self._values.append(values)
        self._extremes.take(values, np.arange(first, self._records))
        kept = {row for seen in self._extremes.values() for row in seen.rows}
        new = sorted(row for row in kept if row >= first)
        keys = table.column(ID).take(pa.array([row - first for row in new], pa.int64())).to_pylist()
        self._keys = {row: key for row, key in self._keys.items() if row in kept} | dict(zip(new, keys, strict=True))

    def found(self) -> SuspectTargets:
        """Return what looks wrong, the worst first."""
        if self._records < MIN_VALUES:
            return SuspectTargets(target=self._column.name, records=self._records)
        values = np.concatenate(self._values)
        sentinels = sentinels_of(values)
        rest = values[~np.isin(values, list(sentinels))]
        why = dict.fromkeys(sentinels, "far from all others, as a code for 'no value' is")
        count = int(np.isin(values, list(sentinels)).sum())
        if scale := RobustScale.of(rest):
            count += self._outliers(rest, scale, why)
        if self._column.range is not None:
            low, high = self._column.range
            beyond = np.unique(values[(values < low) | (values > high)])
            count += int(np.isin(values, beyond[~np.isin(beyond, list(why))]).sum())
            outside = f"outside of the range [{low:g}, {high:g}]"
            why |= {value: f"{outside}, {why[value]}" if value in why else outside for value in beyond.tolist()}
        named = [
            SuspectTarget(id=self._keys[row], value=value, why=reason)
            for value, reason in why.items()
            if value in self._extremes
            for row in self._extremes[value].rows
        ]
        return SuspectTargets(target=self._column.name, records=self._records, count=count, named=tuple(named[:NAMED]))

    def _outliers(self, rest: npt.NDArray[np.float64], scale: RobustScale, why: dict[float, str]) -> int:
        """Add the reasons of outliers; return how many values are such."""
        found, slips = outliers_of(self._extremes, rest, why, scale)
        if not found.count:
            return 0
        factors = {slip.value: slip.factor for slip in slips}
        candidates = np.array([value for value in self._extremes if value not in why])
        distances = scale.distance(candidates)
        for place in np.argsort(-np.abs(distances), kind="stable"):
            value, away = float(candidates[place]), float(distances[place])
            if abs(away) <= OUTLIER:
                break
            why[value] = f"{abs(away):.3g} robust standard deviations {'below' if away < 0 else 'above'} the median"
            if factor := factors.get(value):
                why[value] += f", and {value * factor:g} would fit: a misplaced decimal sign?"
        return found.count
