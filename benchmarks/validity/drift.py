"""Drift alerts: how often they are false on stationary records, and how soon a lasting shift is found, by the level of evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table, progress, random
from complex_system.domain.dataset import Dataset
from complex_system.monitoring.alerts.rules import load_rules
from complex_system.monitoring.drift import population_stability_index
from complex_system.monitoring.evidence import SequentialTest
from complex_system.monitoring.flow import LiveWindow
from complex_system.monitoring.reference import NumberReference, Reference, binned
from complex_system.protocol.serving import PredictedRecord

Matrix = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Matrix]

SOURCE, TRAINING = 50_000, 0.7
"""Records before the champion, and the share of them that it was trained on, drawn at random as the split by key does."""
RUN = 20_000
WINDOW, A_LOOK = 500, 4
"""The live window, and records between two points: two predictions every five seconds, a point every ten."""
CAMPAIGN = (50, 500)
LEVELS = (2, 3, 4, 5, 6, 7, 8)
"""Levels of evidence at which the curves are drawn."""
SHIFTS = {2.0: 50, 1.0: 200}
"""Standard deviations of a shift, and effective samples within which it has to be found."""
HOLDOUT = 77
PSI_RUNS = 5
"""Runs in which the rule before is judged as well, which takes longer."""


@dataclass(frozen=True)
class Kind:
    """A kind of records without drift.

    Attributes:
        draw: Returns so many records in their order.
        dataset: Their features.
        names: Of the features, as they are drawn; the first one is shifted.
        effective: Records that tell as much as one independent record, of that feature.
    """

    draw: Draw
    dataset: Dataset
    names: tuple[str, ...]
    effective: float = 1.0

    @property
    def places(self) -> list[int]:
        """Places of the data set's features among the drawn ones."""
        return [self.names.index(name) for name in self.dataset.feature_names]


def measure(*, quick: bool) -> Iterator[Table]:
    runs = 4 if quick else 40
    alarms = {name: false_alarms(name, kind, runs) for name, kind in KINDS.items()}
    delays = {
        (name, shift): detection(name, kind, shift, runs)
        for name, kind in KINDS.items()
        if name in SHIFTED
        for shift in SHIFTS
    }
    rule = next(rule for rule in load_rules() if rule.name == "drift")
    claims = []
    for name, found in alarms.items():
        mean = float(np.mean(found.evidence >= rule.threshold))
        claims.append(Claim(
            f"{name}: false alarms in {RUN:,} records (by a PSI above 0.25: {np.mean(found.psi):.0%} of the runs have one)",
            f"{mean:.3g}", "at most 1", holds=mean <= 1,
        ))  # fmt: skip
    repeated = float(np.mean([probes(run) >= rule.threshold for run in range(runs)]))
    claims.append(
        Claim(
            f"{HOLDOUT} hold-out records drawn again and again: false alarms", f"{repeated:.3g}", "at most 1", repeated <= 1
        )
    )
    for (name, shift), waited in delays.items():
        share = float(np.mean(waited[rule.threshold] <= SHIFTS[shift]))
        claims.append(Claim(
            f"{name}: a shift of {shift:g} standard deviations found within {SHIFTS[shift]} effective samples",
            f"{share:.0%} (half within {np.median(waited[rule.threshold]):.0f})", "at least 90 %", holds=share >= 0.9,
        ))  # fmt: skip
    note = (
        f"{runs} runs each: a champion of {SOURCE * TRAINING:,.0f} training records, then live ones with a look after every {A_LOOK}. "
        f"The shipped rule: {rule.metric} above {rule.threshold:g}, over all of {FEATURES} or more features. The shift is lasting and "
        "in one feature; an effective sample is as many records as tell as much as one independent record."
    )
    yield claims_table("Drift", note, claims)
    yield _curve(
        "Drift: runs with a false alarm, by level of evidence",
        f"Share of runs of {RUN:,} records without drift in which the evidence of any feature ever reaches the level.",
        {name: [float(np.mean(found.evidence >= level)) for level in LEVELS] for name, found in alarms.items()},
        "{:.1%}",
    )
    yield _curve(
        "Drift: effective samples until it is found, by level of evidence",
        "Nine of ten lasting shifts of one feature are found within so many effective samples.",
        {
            f"{name}, {shift:g} standard deviations": [float(np.quantile(waited[level], 0.9)) for level in LEVELS]
            for (name, shift), waited in delays.items()
        },
        "{:.0f}",
    )


@dataclass(frozen=True)
class Alarms:
    """Of several runs: the largest evidence of any feature at any look, and whether a PSI was beyond 0.25 at one."""

    evidence: npt.NDArray[np.float64]
    psi: npt.NDArray[np.bool_]


def false_alarms(name: str, kind: Kind, runs: int) -> Alarms:
    evidence, psi = [], []
    for run in progress(f"no drift, {name}", range(runs), runs):
        training, live = _drawn(kind, random(f"drift, {name}", run), RUN)
        reference, test = _tested(kind, training)
        evidence.append(_largest(test, live).max())
        if run < PSI_RUNS:
            psi.append(_psi_beyond(reference, kind, live))
    return Alarms(np.array(evidence), np.array(psi))


def detection(name: str, kind: Kind, shift: float, runs: int) -> dict[float, npt.NDArray[np.float64]]:
    """Return the effective samples until the first feature's shift is found, by level; infinite where it is not found in time.

    The other features are left out, which takes a fifteenth of the time: that they are judged as well lowers the evidence of each by
    the logarithm of their number.
    """
    waited: dict[float, list[float]] = {level: [] for level in LEVELS}
    before, alone = int(20 * kind.effective), _kind(kind.draw, 1)
    for run in progress(f"shift of {shift:g}, {name}", range(runs), runs):
        length = before + int(2 * SHIFTS[shift] * kind.effective)
        training, live = _drawn(alone, random(f"shift, {name}", run), length)
        live[before:] += shift
        _, test = _tested(alone, training)
        evidence = _largest(test, live)[before // A_LOOK :] - math.log10(FEATURES)
        for level in LEVELS:
            beyond = np.flatnonzero(evidence >= level)
            waited[level].append(A_LOOK * (beyond[0] + 1) / kind.effective if len(beyond) else math.inf)
    return {level: np.array(found) for level, found in waited.items()}


def probes(run: int) -> float:
    """Return the largest evidence while two records of a small hold-out part are predicted again and again."""
    numbers, kind = random("probes", run), KINDS["independent"]
    training, holdout = (kind.draw(numbers, size)[:, kind.places] for size in (360, HOLDOUT))
    _, test = _tested(kind, training)
    window, tested, largest = LiveWindow(WINDOW), 0, 0.0
    for _ in range(RUN // A_LOOK):
        chosen = numbers.choice(HOLDOUT, A_LOOK)
        window.add(0.0, [PredictedRecord(id=str(i), record={"i": int(i)}, prediction=0.0) for i in chosen])
        new = [each for each in window.records if each.number > tested]
        if new:
            rows = holdout[[int(each.record["i"]) for each in new]]
            largest = max(largest, float(test.update(np.zeros(len(rows)), rows).max()))
            tested = new[-1].number
    return largest


def _drawn(kind: Kind, numbers: np.random.Generator, live: int) -> tuple[Matrix, Matrix]:
    """Return training and live records, which follow each other in one series."""
    series = kind.draw(numbers, SOURCE + live)[:, kind.places]
    source = series[:SOURCE]
    return source[numbers.random(SOURCE) < TRAINING], series[SOURCE:]


def _tested(kind: Kind, training: Matrix) -> tuple[Reference, SequentialTest]:
    reference = Reference.of(kind.dataset, training.astype(np.float32), density=TRAINING)
    return reference, SequentialTest(reference, kind.dataset)


def _largest(test: SequentialTest, live: Matrix) -> Matrix:
    """Return the largest evidence of all features at every look; 0 where none is judged."""
    found = []
    for begin in range(0, len(live), WINDOW):
        rows = live[begin : begin + WINDOW]
        found.append(test.update(np.arange(begin, begin + len(rows), dtype=float), rows).max(axis=1, initial=0.0))
    return np.concatenate(found)[A_LOOK - 1 :: A_LOOK]


def _psi_beyond(reference: Reference, kind: Kind, live: Matrix) -> bool:
    """Return whether the rule before was ever broken: a PSI above 0.25 over the window, of a feature that is no part of a time."""
    for place, name in enumerate(kind.dataset.feature_names):
        column = reference.processed[name]
        if not isinstance(column, NumberReference) or name.startswith("t_"):
            continue
        for end in range(WINDOW, len(live) + 1, 10 * A_LOOK):
            if population_stability_index(column.counts, binned(live[end - WINDOW : end, place], column.edges)) > 0.25:
                return True
    return False


def _curve(title: str, note: str, rows: dict[str, list[float]], shown: str) -> Table:
    table = Table(title, note, ["", *map(str, LEVELS)])
    table.rows += [
        [name, *(shown.format(value) if math.isfinite(value) else "later" for value in values)]
        for name, values in rows.items()
    ]
    return table


FEATURES = 15


def _kind(draw: Draw, numbers: int, more: str = "", effective: float = 1.0) -> Kind:
    """Return a kind of so many numbers, and ``categories`` or ``calendar``."""
    names = [f"x{i}" for i in range(numbers)]
    columns = [f"  - {{name: {name}, type: number, range: [-1e9, 1e9]}}" for name in names]
    steps = [f"  - {{step: keep, column: {name}}}" for name in names]
    if more == "categories":
        columns.append("  - {name: m, type: category, categories: [a, b, c, d]}")
        steps.append("  - {step: one_hot, column: m}")
        names += [f"m_{each}" for each in "abcd"]
    if more == "calendar":
        columns.append('  - {name: t, type: datetime, format: "%Y-%m-%d %H:%M:%S"}')
        steps.append("  - {step: date_parts, column: t, parts: [month, weekday, hour]}")
        names += ["t_month", "t_weekday", "t_hour"]
    columns.append("  - {name: y, type: number, optional: true}")
    dataset = Dataset.parse("\n".join(["name: made", "target: y", "columns:", *columns, "pipeline:", *steps]))
    return Kind(draw, dataset, tuple(names), effective)


def _independent(numbers: np.random.Generator, size: int) -> Matrix:
    """Normal, uniform, exponential and heavy-tailed numbers."""
    normal, uniform = numbers.standard_normal((size, 6)), numbers.random((size, 3))
    return np.column_stack([normal, uniform, numbers.exponential(size=(size, 3)), numbers.standard_t(3, (size, 3))])


def _autoregressive(rho: float) -> Draw:
    def draw(numbers: np.random.Generator, size: int) -> Matrix:
        from scipy.signal import lfilter

        warm_up = int(20 / (1 - rho))
        noise = numbers.standard_normal((size + warm_up, FEATURES)) * math.sqrt(1 - rho**2)
        found: Matrix = lfilter([1], [1, -rho], noise, axis=0)[warm_up:]
        return found

    return draw


def _campaigns(numbers: np.random.Generator, size: int) -> Matrix:
    """A setting that is normal from campaign to campaign, ten independent numbers, and the material, another one each time."""
    lengths = numbers.integers(*CAMPAIGN, endpoint=True, size=size // CAMPAIGN[0] + 1)
    materials = np.cumsum(numbers.integers(1, 4, len(lengths))) % 4
    campaign = np.repeat(np.arange(len(lengths)), lengths)[:size]
    setting = numbers.standard_normal(len(lengths))[campaign]
    return np.column_stack([setting, numbers.standard_normal((size, 10)), np.eye(4)[materials[campaign]]])


def _calendar(numbers: np.random.Generator, size: int) -> Matrix:
    """Twelve independent numbers, and month, weekday and hour: months of training records, then all live ones within an hour."""
    hours = np.minimum(np.arange(size), SOURCE) // 6
    parts = np.column_stack([hours // 720 % 12 + 1, hours // 24 % 7 + 1, hours % 24])
    return np.column_stack([numbers.standard_normal((size, 12)), parts])


MEAN, VARIANCE = sum(CAMPAIGN) / 2, ((CAMPAIGN[1] - CAMPAIGN[0] + 1) ** 2 - 1) / 12
KINDS = {
    "independent": _kind(_independent, FEATURES),
    **{
        f"AR(1), rho {rho:g}": _kind(_autoregressive(rho), FEATURES, effective=(1 + rho) / (1 - rho))
        for rho in (0.9, 0.98, 0.99)
    },
    f"campaigns of {CAMPAIGN[0]} to {CAMPAIGN[1]} records": _kind(_campaigns, 11, "categories", (MEAN**2 + VARIANCE) / MEAN),
    "calendar features": _kind(_calendar, 12, "calendar"),
}
SHIFTED = [name for name in KINDS if name != "calendar features"]
