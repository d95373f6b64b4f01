"""How often a 95 % interval of an error holds the true error, and where it is said that it cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table, progress, random
from complex_system.evaluation.baselines import LINEAR, cross_validated_baseline
from complex_system.evaluation.statistics import (
    HEAVY_TAILS,
    MIN_UNITS,
    Interval,
    Squares,
    blocks,
    cross_interval,
    rmse_difference,
    rmse_interval,
)
from complex_system.training.cross_validation import Keyed
from complex_system.training.data import Samples

Errors = npt.NDArray[np.float64]
AIM = "92 to 97 %"
NOTE = (
    "{draws:,} draws each ({folds} of cross-validations). *Covered* is the share in which the 95 % interval holds the true RMSE, or "
    "the true difference of two; *caveat* the share in which the comparison says that it cannot be trusted: below {least} independent "
    "units, or with a kurtosis above {heavy:g}. Errors of a group, and those that follow each other in time, correlate as given; a "
    "split by time takes at most 30 blocks. Intervals of folds are rather too wide from 500 records on, with one repeat."
)


def measure(*, quick: bool) -> Iterator[Table]:
    draws, folds = (300, 40) if quick else (4000, 400)
    note = NOTE.format(draws=draws, folds=folds, least=MIN_UNITS, heavy=HEAVY_TAILS)
    table = Table("Intervals", note, ["errors", "units", "covered", "caveat"])
    claims: list[Claim] = []

    def add(what: str, units: str, covered: float, caveat: float | None, *, aim: str = "") -> None:
        table.rows.append([what, units, f"{covered:.1%}", "" if caveat is None else f"{caveat:.0%}"])
        holds = 0.92 <= covered <= (0.97 if aim == AIM else 1.0)
        claims.append(Claim(f"{what}, {units}", f"{covered:.1%}", aim, holds=holds))

    for count in (14, 30, 77, 300, 1000):
        add(
            "normal",
            f"{count:,} records",
            *_covered("normal", normal, count, 1, draws),
            aim=AIM if count >= MIN_UNITS else "",
        )
    for within, count in ((0.5, 12), (0.5, 30), (0.9, 30), (0.5, 100)):
        what = f"normal, {within:g} within groups of 5"
        found = _covered(what, partial(grouped, within=within), count, 5, draws)
        add(what, f"{count} groups", *found, aim=AIM if count >= MIN_UNITS else "")
    for rho, count in ((0.5, 300), (0.5, 1000), (0.9, 1000)):
        found = _covered(f"{rho}", partial(in_time, rho=rho), count, 0, draws)
        add(f"normal, {rho:g} from record to record", f"{count:,} records, 30 blocks", *found)
    for count in (30, 77, 300, 1000):
        covered, caveat = _covered("t3", heavy, count, 1, draws)
        add("Student's t, 3 degrees of freedom", f"{count:,} records", covered, caveat)
    for count in (30, 300):
        add("difference of two, correlated at 0.9", f"{count} records", _difference(count, draws), None, aim=AIM)
    for count in (50, 200, 800):
        add("folds, least squares", f"{count} records", _folds(count, folds), None, aim="at least 92 %")
    yield table
    yield claims_table("Intervals, aims", "The same figures.", [claim for claim in claims if claim.aim])


def normal(numbers: np.random.Generator, count: int) -> tuple[Errors, float]:
    return numbers.standard_normal(count), 1.0


def grouped(numbers: np.random.Generator, count: int, within: float) -> tuple[Errors, float]:
    shared = np.repeat(numbers.standard_normal(count // 5), 5)
    return np.sqrt(within) * shared + np.sqrt(1 - within) * numbers.standard_normal(count), 1.0


def in_time(numbers: np.random.Generator, count: int, rho: float) -> tuple[Errors, float]:
    from scipy.signal import lfilter

    steps = np.sqrt(1 - rho**2) * numbers.standard_normal(count + 200)
    errors: Errors = lfilter([1.0], [1.0, -rho], steps)[200:]
    return errors, 1.0


def heavy(numbers: np.random.Generator, count: int) -> tuple[Errors, float]:
    return numbers.standard_t(3, count), float(np.sqrt(3))


def _covered(
    name: str, draw: Callable[[np.random.Generator, int], tuple[Errors, float]], units: int, size: int, draws: int
) -> tuple[float, float]:
    """Share of the draws that cover, and of those with a caveat; a size of 0 stands for blocks in time."""
    numbers, count = random(f"intervals {name}", units), units * (size or 1)
    groups = {0: blocks(count), 1: None}.get(size, np.repeat(np.arange(units), max(size, 1)))
    covered = caveats = 0
    for _ in progress(f"intervals, {name}, {units}", range(draws), draws):
        errors, truth = draw(numbers, count)
        squares = Squares.of(errors, groups)
        covered += _holds(rmse_interval(squares), truth)
        caveats += squares.units < MIN_UNITS or squares.kurtosis > HEAVY_TAILS
    return covered / draws, caveats / draws


def _difference(count: int, draws: int) -> float:
    numbers, covered = random("intervals difference", count), 0
    for _ in progress(f"intervals, difference, {count}", range(draws), draws):
        common, one, other = numbers.standard_normal((3, count))
        ours, theirs = (Squares.of(np.sqrt(0.9) * common + np.sqrt(0.1) * each) for each in (one, 1.5 * other))
        covered += _holds(rmse_difference(ours, theirs), float(np.sqrt(0.9 + 0.1 * 1.5**2)) - 1)
    return covered / draws


def _folds(count: int, draws: int) -> float:
    """Share in which the interval holds the error of least squares with as many records as outside a fold.

    With normal features and a noise of 1: L. Breiman and D. Freedman, How Many Variables Should Be Entered in a Regression Equation?
    Journal of the American Statistical Association 78 (1983).
    """
    numbers, covered, fitted = random("intervals folds", count), 0, round(0.8 * count)
    truth = float(np.sqrt((1 + 1 / fitted) * (fitted - 2) / (fitted - 8 - 2)))
    slopes = numbers.standard_normal(8)

    def law(records: int) -> Samples:
        x = numbers.standard_normal((records, 8))
        return Samples(x.astype(np.float32), (x @ slopes + numbers.standard_normal(records)).astype(np.float32))

    for _ in progress(f"intervals, folds, {count}", range(draws), draws):
        records = Keyed(tuple(f"record {each}" for each in range(count)), law(count))
        covered += _holds(cross_interval(cross_validated_baseline(LINEAR, records)), truth)
    return covered / draws


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high
