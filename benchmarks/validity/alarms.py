"""Error alarms: how often they are false, how soon a doubled error is found, and what a round on input drift gains."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table, progress, random
from complex_system.monitoring.alerts.rules import AlertRule, load_rules
from complex_system.monitoring.error_watch import NEWEST, ErrorReference
from complex_system.training.base import residuals_of

Errors = npt.NDArray[np.float64]

WINDOW = 500
"""Pairs of the service's window."""
PAIRS_A_LOOK, SECONDS_A_LOOK = 4, 10.0
"""Two predictions every five seconds, all with a truth, and a point every ten seconds: the defaults."""
RUN = 5000
"""Pairs of a stationary run: ten windows, and 3.5 hours with these looks."""
DOUBLED_AFTER, WITHIN = 1000, 100
SHAPES = {"normal": 0.0, "normal, 3 % outliers": 0.03, "Student's t, 3 degrees": 0.0}
SLIP = 30.0
"""Times an error is larger with a decimal slip."""


def measure(*, quick: bool) -> Iterator[Table]:
    yield error_alarms(50 if quick else 1000)


def error_alarms(runs: int) -> Table:
    rule = next(rule for rule in load_rules() if rule.name == "error")
    claims = []
    for holdout in (14, 30, 77):
        folds = round(holdout / 0.15)
        for shape in SHAPES:
            for what, size in (("hold-out", holdout), ("cross-validated", folds)):
                name = f"{size} {what} residuals, {shape}"
                false, by_rmse, found = [], [], []
                for run in progress(name, range(runs), runs):
                    numbers = random("alarms", holdout, size, run, list(SHAPES).index(shape))
                    reference = reference_of(drawn(numbers, size, shape))
                    live = np.abs(drawn(numbers, RUN, shape))
                    false.append(bool(len(alarms(reference, live, rule))))
                    by_rmse.append(is_ever_beyond(reference, live, 1.3, 100, rule.lasting))
                    doubled = np.concatenate([live[:DOUBLED_AFTER], 2 * live[DOUBLED_AFTER : DOUBLED_AFTER + 2 * WINDOW]])
                    after = alarms(reference, doubled, rule)
                    found.append(bool(np.any((after > DOUBLED_AFTER) & (after <= DOUBLED_AFTER + WITHIN))))
                share, earlier, seen = np.mean(false), np.mean(by_rmse), np.mean(found)
                claims.append(Claim(
                    f"{name}: false alarms a run (by an RMSE of 1.3 times: {earlier:.1%})", f"{share:.1%}", "at most 1 %",
                    holds=bool(share <= 0.01),
                ))  # fmt: skip
                aimed = what == "cross-validated" and "normal" in shape
                claims.append(Claim(
                    f"{name}: doubled error found within {WITHIN} pairs", f"{seen:.0%}", "at least 90 %" if aimed else "",
                    holds=bool(seen >= 0.9),
                ))  # fmt: skip
    note = (
        f"{runs} runs of {RUN} pairs each, judged every {SECONDS_A_LOOK:g} s ({PAIRS_A_LOOK} pairs) over windows of {WINDOW} by the "
        f"shipped rule: {rule.metric} above {rule.threshold:g} for {rule.lasting:g} s. Outliers are {SLIP:g} times as large, on both "
        "sides."
    )
    return claims_table("Error alarms", note, claims)


def drawn(numbers: np.random.Generator, size: int, shape: str) -> Errors:
    """Residuals of a shape."""
    errors = numbers.standard_t(3, size) if shape.startswith("Student") else numbers.standard_normal(size)
    return np.where(numbers.random(size) < SHAPES[shape], SLIP * errors, errors)


def reference_of(residuals: Errors) -> ErrorReference:
    """What live errors are judged by."""
    return ErrorReference(
        rmse=float(np.sqrt(np.mean(residuals**2))), count=len(residuals), residuals=residuals_of(residuals)
    )


def alarms(reference: ErrorReference, live: Errors, rule: AlertRule) -> npt.NDArray[np.int64]:
    """Numbers of pairs after which an alert of the rule would be raised.

    The same as judging every window: the lower bound of the ratio is above a limit where the errors divided by the limit still have
    too large a mean score.
    """
    scores = np.concatenate([[0.0], np.cumsum(reference.scores(live / rule.threshold))])
    ends = np.arange(PAIRS_A_LOOK, len(live) + 1, PAIRS_A_LOOK)
    is_beyond = np.zeros(len(ends), dtype=bool)
    for size in (*NEWEST, WINDOW):
        pairs = np.minimum(ends, size)
        limits = np.array([reference.limit(int(n)) for n in range(1, size + 1)])[pairs - 1]
        is_beyond |= ((scores[ends] - scores[ends - pairs]) / pairs > limits) & (ends >= rule.min_count)
    return ends[lasted(is_beyond, rule.lasting)]


def is_ever_beyond(reference: ErrorReference, live: Errors, ratio: float, min_count: int, lasting: float) -> bool:
    """Whether the RMSE of the window is ever this multiple of the reference's for so many seconds, as alerts were raised before."""
    squares = np.concatenate([[0.0], np.cumsum(live**2)])
    ends = np.arange(PAIRS_A_LOOK, len(live) + 1, PAIRS_A_LOOK)
    pairs = np.minimum(ends, WINDOW)
    relative = np.sqrt((squares[ends] - squares[ends - pairs]) / pairs) / reference.rmse
    return bool(lasted((relative > ratio) & (ends >= min_count), lasting).any())


def lasted(is_beyond: npt.NDArray[np.bool_], seconds: float) -> npt.NDArray[np.bool_]:
    """At which looks it has lasted so long."""
    looks = 1 + int(np.ceil(seconds / SECONDS_A_LOOK))
    counted = np.concatenate([[0], np.cumsum(is_beyond)])
    found = np.zeros(len(is_beyond), dtype=bool)
    found[looks - 1 :] = counted[looks:] - counted[:-looks] == looks
    return found
