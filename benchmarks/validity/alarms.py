"""Error alarms: how often they are false, how soon a doubled error is found, and what a round on input drift gains."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table, progress, random
from complex_system.evaluation.triggers import weighting_since
from complex_system.monitoring.alerts.rules import AlertRule, load_rules
from complex_system.monitoring.error_watch import NEWEST, ErrorReference
from complex_system.training.base import TrainingParameters, residuals_of, score
from complex_system.training.data import Samples, TrainingData
from complex_system.training.lightgbm import LightGBMTrainer
from complex_system.training.pytorch import PyTorchTrainer

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
    yield retraining(3 if quick else 20)


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
                decides = what == "cross-validated"  # with so few records the folds do
                claims.append(Claim(
                    f"{name}: false alarms a run (by an RMSE of 1.3 times: {earlier:.1%})", f"{share:.1%}",
                    "at most 1 %" if decides else "", holds=bool(share <= 0.01),
                ))  # fmt: skip
                aimed = decides and "normal" in shape
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


def retraining(runs: int) -> Table:
    """The inputs move and the law stays: models of the newest records, of all, and of all with the newest weighted."""
    frameworks = {"LightGBM": LightGBMTrainer, "PyTorch": PyTorchTrainer}
    rows: list[list[str]] = []
    for framework, trainer in frameworks.items():
        errors: dict[str, list[tuple[float, float]]] = {}
        for run in progress(f"retraining, {framework}", range(runs), runs):
            numbers = random("retraining", run)
            old, new = friedman(numbers, OLD, moved=False, at=0.0), friedman(numbers, NEW, moved=True, at=1.0)
            tests = [friedman(numbers, 5000, moved=moved, at=2.0) for moved in (True, False)]
            everything = joined(old, new)
            ways = {
                "champion: the older records": (old, None),
                f"the newest {NEW} alone": (new, None),
                "all": (everything, None),
                "all, the newest weighted": (everything, weighting_since(0.5, NEW, OLD + NEW)),
            }
            for way, (samples, weighting) in ways.items():
                validation = numbers.random(len(samples)) < 15 / 85
                data = TrainingData(
                    tuple(f"x{i}" for i in range(10)),
                    "y",
                    samples.of(~validation),
                    samples.of(validation),
                    weighting=weighting,
                )
                model = trainer(TrainingParameters(seed=run)).fit(data.weighted(), lambda _: None)
                errors.setdefault(way, []).append(
                    tuple(score(test.y, model.predict(test.x)).rmse for test in tests)  # type: ignore[arg-type]
                )
        for way, found in errors.items():
            newest, older = np.mean(found, axis=0)
            rows.append([framework, way, f"{newest:.3f}", f"{older:.3f}"])
    note = (
        f"J. Friedman's function (MARS, 1991) of ten inputs with noise of standard deviation {NOISE:g}, {OLD} older records with even "
        f"inputs, then {NEW} whose first three inputs lie in the upper part. RMSE on new records, mean of {runs} runs."
    )
    return Table("Retraining on input drift alone", note, ["", "trained on", "newest", "older"], rows)


OLD, NEW, NOISE = 5000, 1000, 2.0


def friedman(numbers: np.random.Generator, size: int, *, moved: bool, at: float) -> Samples:
    """Records of one time; with moved inputs the first three are of Beta(4, 2)."""
    x = numbers.random((size, 10))
    if moved:
        x[:, :3] = numbers.beta(4, 2, (size, 3))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y += NOISE * numbers.standard_normal(size)
    return Samples(x.astype(np.float32), y.astype(np.float32), times=np.full(size, at))


def joined(old: Samples, new: Samples) -> Samples:
    """Both, one after the other."""
    assert old.times is not None
    assert new.times is not None
    return Samples(
        np.concatenate([old.x, new.x]), np.concatenate([old.y, new.y]), times=np.concatenate([old.times, new.times])
    )


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
