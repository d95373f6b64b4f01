"""Results that are kept: one JSON line for each table, method, repeat and fold, in a file that is committed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.methods import BASE, CHAMPION, METHODS, champion_of
from benchmarks.quality.tables import TABLES

FILE = Path(__file__).parent / "results.jsonl"
Key = tuple[str, str, int, int]
"""Table, method, repeat, fold."""


class Results:
    """All results whose method is still the same."""

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        self._rows: dict[Key, dict[str, Any]] = {}
        self._digests = {name: method.digest for name, method in METHODS.items()}  # now: sources may change while it runs
        for line in file.read_text("utf-8").splitlines() if file.exists() else ():
            row = json.loads(line)
            if self._digests.get(row["method"]) == row["digest"]:
                self._rows[row["table"], row["method"], row["repeat"], row["fold"]] = row

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def add(self, key: Key, **measured: Any) -> None:
        """Keep a result, also if what follows fails."""
        row = dict(zip(("table", "method", "repeat", "fold"), key, strict=True), digest=self._digests[key[1]], **measured)
        self._rows[key] = row
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def of(self, table: str, method: str) -> dict[tuple[int, int], dict[str, Any]]:
        """Return the results of a method by repeat and fold; the champion's where all of our methods have that fold."""
        if method != CHAMPION:
            return {key[2:]: row for key, row in self._rows.items() if key[:2] == (table, method)}
        ours = [self.of(table, name) for name, each in METHODS.items() if each.ours]
        return {
            place: champion_of([each[place] for each in ours]) for place in ours[0] if all(place in each for each in ours)
        }

    def ratio(self, table: str, method: str, places: Iterable[tuple[int, int]]) -> float:
        """Return the geometric mean, over these folds, of the RMSE by that of the base."""
        own, base = self.of(table, method), self.of(table, BASE)
        return geometric_mean(own[place]["rmse"] / base[place]["rmse"] for place in places)

    def common(self, table: str, methods: Iterable[str]) -> list[tuple[int, int]]:
        """Return the repeats and folds that the base and all of these methods have."""
        return sorted(set(self.of(table, BASE)).intersection(*(self.of(table, method) for method in methods)))

    @property
    def methods(self) -> list[str]:
        """The methods with any result, in order, the champion last."""
        found = [name for name in METHODS if any(self.of(table, name) for table in TABLES)]
        return [*found, CHAMPION] if any(self.of(table, CHAMPION) for table in TABLES) else found


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive values."""
    return float(np.exp(np.mean(np.log(list(values)))))
