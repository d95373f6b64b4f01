"""How good are the models? Ten public tables, our methods beside scikit-learn's, RMSE by that of its default boosting.

``python -m benchmarks.quality [--minutes N] [--repeats 1] [--methods A,B] [TABLE ...]`` measures what ``results.jsonl`` does not
have yet, fold by fold, and prints the tables; ``make bench ARGS=quality`` writes them to docs/benchmarks.md, too. A result counts as
long as the method's sources are the same, also on another machine.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import os
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from benchmarks.quality.methods import BASE, CHAMPION, METHODS, Runs
from benchmarks.quality.results import Key, Results, geometric_mean
from benchmarks.quality.tables import CHOSEN_ON, FOLDS, FURTHER, REPEATS, SEED, TABLES, load
from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table
from complex_system.training.base import score
from complex_system.training.conformal import Intervals, intervals_of
from complex_system.training.cross_validation import Keyed
from complex_system.training.data import Samples

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before scikit-learn is imported: on a busy machine its threads wait for each other

AUTOGLUON = {
    "concrete": 0.87, "biomass": 0.94, "meats": 0.89, "boston": 0.97, "car prices": 0.87, "diabetes": 0.95,
}  # fmt: skip
"""AutoGluon 1.6.3, 20 s a fold, without torch, measured once in the same way on folds of its own."""
NOTE = (
    "RMSE divided by that of scikit-learn's `HistGradientBoostingRegressor` with its default settings, on the same folds: geometric "
    "mean over {folds} folds x {repeats} repeats (seed {seed} with the table's name). Every method gets the records outside the fold "
    "and nothing else: ours search, stop early and cross-validate with them, as a training does. *champion* is the one of our methods "
    "({ours}) that their own cross-validation ranks first on that fold. Where folds are missing, a row is of those that all of its "
    "methods have (in brackets how many). Choices were made on {chosen}; the other tables confirm them."
)
FURTHER_NOTE = f"Measured in the same way, {FOLDS} folds, once: tables that were named before anything was measured on them."

LEVEL = 0.9
INTERVALS_DIGEST = hashlib.sha256((inspect.getsource(intervals_of) + inspect.getsource(Intervals)).encode()).hexdigest()[:12]


def measure(*, quick: bool) -> Iterator[Table]:
    """Measure what is missing, and return the tables."""
    results = Results()
    fill(results, list(TABLES), list(METHODS), 1 if quick else REPEATS, float("inf"))
    fill(results, list(FURTHER), list(METHODS), 1, float("inf"))
    yield from tables(results)


def fill(results: Results, names: Sequence[str], methods: Sequence[str], repeats: int, minutes: float) -> None:
    """Measure the folds that are missing until the time is over: all methods on a fold of each table, then on the next one."""
    until = time.monotonic() + 60 * minutes
    loaded = {name: load(name) for name in names}
    for repeat, fold, (name, table) in itertools.product(range(repeats), range(FOLDS), loaded.items()):
        train, scored = list(table.folds(repeat))[fold]
        runs = Runs(Keyed(tuple(f"{name} {number}" for number in range(len(train))), train), table.names)
        for method in methods:
            if (name, method, repeat, fold) in results:
                continue
            if time.monotonic() > until:
                return
            _run(results, runs, scored, (name, method, repeat, fold))


def _run(results: Results, runs: Runs, scored: Samples, key: Key) -> None:
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of frameworks while they are imported
        found = runs.outcome(key[1])
    predicted = np.asarray(found.predict(scored.x), dtype=np.float32)
    rmse, seconds = score(scored.y, predicted).rmse, time.monotonic() - began
    inner, covered = None, {}
    if found.crossed is not None:
        inner = round(found.crossed.summary().rmse, 8)
        half = intervals_of(found.crossed.errors, found.crossed.units, "cross-validation").half_width(LEVEL)
        covered = {
            "within": int((np.abs(predicted - scored.y) <= half).sum()), "of": len(predicted),
            "width": float(f"{2 * half / scored.y.std():.4g}"), "intervals": INTERVALS_DIGEST,
        }  # fmt: skip
    results.add(key, rmse=round(rmse, 8), inner=inner, seconds=round(seconds, 1), **covered)
    print("{}, {}, repeat {}, fold {}".format(*key), f"RMSE {rmse:.5g} ({seconds:.0f} s)", sep=": ", flush=True)


def tables(results: Results) -> Iterator[Table]:
    """Return what is known: ratios by table and method, and how optimistic the inner errors are."""
    note = NOTE.format(
        folds=FOLDS, repeats=REPEATS, seed=SEED, ours=", ".join(name for name, method in METHODS.items() if method.ours),
        chosen=", ".join(CHOSEN_ON),
    )  # fmt: skip
    groups = {"five to choose on": CHOSEN_ON, "five to confirm": set(TABLES) - set(CHOSEN_ON), "all": TABLES}
    complete, found = _ratios(results, "Ten public tables", note, REPEATS, groups)
    yield found
    if claims := list(_claims(complete)):
        yield claims_table("Quality, aims", "Of the tables above that have all methods.", claims)
    yield _ratios(results, "Five further tables", FURTHER_NOTE, 1, {"all": FURTHER})[1]
    yield _optimism(results)
    yield _coverage(results)


def _ratios(
    results: Results, title: str, note: str, repeats: int, groups: Mapping[str, Collection[str]]
) -> tuple[dict[str, dict[str, float]], Table]:
    """The ratios of the last group's tables, of those that have all methods; and as a table with the groups' means."""
    methods = [method for method in results.methods if method != BASE]
    names_of_all = list(groups.values())[-1]
    foreign = ["AutoGluon"] if AUTOGLUON.keys() & names_of_all else []
    found = Table(title, note, ["table", *methods, *foreign])
    complete: dict[str, dict[str, float]] = {}
    for name in names_of_all:
        there = [method for method in methods if results.of(name, method)]
        if not there or not (places := results.common(name, there)):
            continue
        ratios = {method: results.ratio(name, method, places) for method in there}
        if there == methods:
            complete[name] = ratios
        few = f" ({len(places)})" if len(places) < FOLDS * repeats else ""
        shown = [f"{ratios[method]:.3f}" if method in ratios else "missing" for method in methods]
        found.rows.append([name + few, *shown, *(f"{AUTOGLUON[name]:.2f}" if name in AUTOGLUON else "" for _ in foreign)])
    for group, names in groups.items():
        there_are = [complete[name] for name in names if name in complete]
        if len(there_are) == len(names):
            means = [f"{geometric_mean(each[method] for each in there_are):.3f}" for method in methods]
        else:
            means = [f"missing: {len(names) - len(there_are)} tables", *[""] * (len(methods) - 1)]
        found.rows.append([f"**{group}**", *means, *("" for _ in foreign)])
    return complete, found


def _claims(ratios: dict[str, dict[str, float]]) -> Iterator[Claim]:
    known = {name: each for name, each in ratios.items() if CHAMPION in each}
    if not known:
        return
    champion = {name: each[CHAMPION] for name, each in known.items()}
    if len(known) == len(TABLES):
        mean = geometric_mean(champion.values())
        yield Claim("champion, geometric mean of all tables", f"{mean:.3f}", "at most 0.85", holds=mean <= 0.85)
    worst = max(champion, key=champion.__getitem__)
    yield Claim(
        f"champion on its worst table ({worst})", f"{champion[worst]:.3f}", "at most 1.00", holds=champion[worst] <= 1
    )
    beside = {name: ratio / known[name]["ridge"] for name, ratio in champion.items()}
    worst = max(beside, key=beside.__getitem__)
    yield Claim(f"champion by ridge, worst ({worst})", f"{beside[worst]:.3f}", "at most 1.02", holds=beside[worst] <= 1.02)
    for name in sorted(champion.keys() & AUTOGLUON.keys()):
        behind = champion[name] / AUTOGLUON[name]
        yield Claim(f"champion by AutoGluon, {name}", f"{behind:.3f}", "at most 1.02", holds=behind <= 1.02)
    for method in {"pytorch", "pytorch-wandb", "keras"} & known.get("chemical process", {}).keys():
        ratio = known["chemical process"][method]
        yield Claim(f"{method} on the chemical process", f"{ratio:.3f}", "at most 1.10", holds=ratio <= 1.1)


def _optimism(results: Results) -> Table:
    note = (
        "RMSE on the outer fold by that of the method's own cross-validation, geometric mean over the folds there are: 1 where the "
        "cross-validation says the truth, more where it is optimistic. What a search found has seen the cross-validation's records, "
        "but not the outer fold; the champion was chosen by its cross-validation."
    )
    ours = [name for name in results.methods if name == CHAMPION or name.startswith("lightgbm") or METHODS[name].ours]
    found = Table("What the own cross-validation promises", note, ["table", *ours])
    for table in TABLES:
        rows = {method: list(results.of(table, method).values()) for method in ours}
        if any(rows.values()):
            cells = [
                f"{geometric_mean(row['rmse'] / row['inner'] for row in rows[method]):.3f}" if rows[method] else ""
                for method in ours
            ]
            found.rows.append([table, *cells])
    return found


def _coverage(results: Results) -> Table:
    note = (
        f"Share of the outer folds' values within the {LEVEL:.0%} intervals that the method's own cross-validation gives, in brackets "
        "the folds (those measured since intervals are kept with them) and last the mean of all folds; `python -m "
        "benchmarks.intervals` has more splits of fewer methods. Folds of fewer than 100 records vary by several percent."
    )
    ours = [name for name in results.methods if name == CHAMPION or METHODS[name].ours]
    found = Table("90 % intervals on the same folds", note, ["table", *ours])
    shares: dict[str, list[float]] = {method: [] for method in ours}
    for table in TABLES | FURTHER:
        cells = []
        for method in ours:
            rows = [row for row in results.of(table, method).values() if row.get("intervals") == INTERVALS_DIGEST]
            of = sum(row["of"] for row in rows)
            shares[method] += [row["within"] / row["of"] for row in rows]
            cells.append(f"{sum(row['within'] for row in rows) / of:.1%} ({len(rows)})" if of else "")
        if any(cells):
            found.rows.append([table, *cells])
    found.rows.append(["**mean of all folds**", *(f"{np.mean(shares[each]):.1%}" if shares[each] else "" for each in ours)])
    return found
