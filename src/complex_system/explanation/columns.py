"""The raw columns behind a model's features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from complex_system.domain.dataset import Dataset
from complex_system.domain.steps import Shares


@dataclass(frozen=True)
class RawColumns:
    """What is explained: each raw column that a feature is made of, and list and shares of a list together.

    A list and its shares say one thing, and a record with the list of one and the shares of another one is not valid.

    Attributes:
        names: The columns in declared order; of a list with shares, that of the list.
        members: The raw columns behind each name.
        uses: Whether a feature depends on a column, shape (features, columns), features in the order of ``Dataset.feature_names``.
    """

    names: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    uses: npt.NDArray[np.bool_]

    @property
    def joint(self) -> npt.NDArray[np.intp]:
        """Positions of the features that depend on several columns."""
        return np.flatnonzero(self.uses.sum(axis=1) > 1)

    @property
    def owner(self) -> npt.NDArray[np.intp]:
        """The only column of each feature; of a feature of several columns the first one."""
        found: npt.NDArray[np.intp] = self.uses.argmax(axis=1)
        return found


def raw_columns(dataset: Dataset) -> RawColumns:
    """Return the raw columns behind the features of a data set."""
    results: dict[str, frozenset[str]] = {}
    sources: dict[str, frozenset[str]] = {}
    leader = {name: name for name in dataset.raw_names}
    for step in dataset.pipeline:
        used = frozenset[str]().union(*(results.get(name, frozenset([name])) for name in step.inputs))
        sources |= dict.fromkeys(dataset.features_of(step), used)
        made = getattr(step, "as_", "")
        if made and made not in dataset.by_name:
            results[made] = used
        if isinstance(step, Shares):
            first, second = leader[step.column], leader[step.shares]
            leader = {name: first if each == second else each for name, each in leader.items()}
    wanted = {leader[name] for used in sources.values() for name in used}
    names = tuple(name for name in dataset.raw_names if name in wanted)
    members = tuple(tuple(each for each in dataset.raw_names if leader[each] == name) for name in names)
    uses = [_among(names, {leader[each] for each in sources[feature]}) for feature in dataset.feature_names]
    return RawColumns(names, members, np.array(uses, dtype=bool).reshape(-1, len(names)))


def _among(names: tuple[str, ...], chosen: Iterable[str]) -> list[bool]:
    found = set(chosen)
    return [name in found for name in names]
