"""Answers to a plant engineer's four questions, each in a few words and with the reason."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from complex_system.monitoring.aggregates import ErrorSums
from complex_system.monitoring.drift import MODERATE, SIGNIFICANT
from complex_system.monitoring.evidence import SURE
from complex_system.monitoring.moves import columns_of_features
from complex_system.monitoring.page.formatting import Level, count, error, lasting, level_of, number, share
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.terms import requests_of
from complex_system.monitoring.performance import MIN_LIVE_PAIRS
from complex_system.monitoring.views import Data

MIN_PAIRS = MIN_LIVE_PAIRS
"""Joined pairs from which an error is judged."""
MIN_RECORDS = 200
"""Predicted records from which the stability index is judged; with fewer it exceeds its limits by chance."""
WORSE, BAD = 1.15, 1.4
"""Live RMSE in units of the comparison's from which the model needs checking, and from which it is bad."""
OLD = 120.0
"""Seconds after which it is said how old a comparison with the reference is: it may be from before a restart."""
MUCH_MISSING = 0.1
"""Share of missing values above the reference's from which the sensor needs checking."""


class Answer(NamedTuple):
    """An answer; ``level`` is ``none`` while it is not known, and ``path`` the view with more about it."""

    question: str
    level: Level
    text: str
    why: str
    path: str


def all_answers(reading: Reading) -> list[Answer]:
    """Return the answers in the order of the page."""
    return [system_answer(reading), model_answer(reading), data_answer(reading), alert_answer(reading)]


def system_answer(reading: Reading) -> Answer:
    """Return whether all services run."""
    answer = partial(Answer, "Is everything running?", path="/system")
    services = reading.overview.services
    if not services:
        return answer("none", "Waiting", "No heartbeat received yet.")
    names: dict[Level, list[str]] = {}
    for each in services:
        names.setdefault(level_of(each.state), []).append(each.service)
    if bad := names.get("bad"):
        return answer("bad", f"{len(bad)} of {len(services)} down", f"{_listed(bad)}: silent or failing.")
    if soon := names.get("warn"):
        return answer("warn", "Not yet", f"{_listed(soon)}: starting or waiting.")
    processes = sum(each.running for each in services)
    return answer("good", "Yes", f"{len(names.get('good', ()))} services ready, {processes} processes.")


def model_answer(reading: Reading) -> Answer:
    """Return whether the model is good, by the champion's own errors alone.

    Clients' predictions decide. Probes stand in for them in a simulation, and the answer says so. The system's own requests are for
    the hold-out records that the champion was chosen on: they can show that it has become worse, and not that it is good.
    """
    answer = partial(Answer, "Is the model good?", path="/predictions")
    champion, judged = reading.champion, reading.judged
    if champion is None:
        return answer("none", "No model yet", "The first training round has not finished yet.")
    sums = reading.champion_errors[judged] if judged else ErrorSums()
    rmse, compared = sums.metrics().get("rmse", 0.0), reading.expected
    expected, enough = compared.rmse or reading.best_possible, sums.n >= MIN_PAIRS
    origin = judged.origin if judged else "live"
    before = f", {error(compared.rmse)} {compared.basis}" if compared.rmse else ""
    why = f"{champion.name}: RMSE {error(rmse)} on {count(sums.n)} {requests_of(origin)}{before}."
    if enough and expected and rmse > WORSE * expected:
        ratio, surely = (reading.newest(f"performance/{each}") for each in ("error_ratio", "error_ratio_low"))
        if ratio is None or surely is None or surely > 1:
            return answer("bad", "No", why) if rmse > BAD * expected else answer("warn", "Worse than before", why)
        why += f" Without outliers its newest errors are {number(ratio)} times those, which may be chance."
    comparison = reading.comparison
    verdicts = comparison.verdicts if comparison else {}
    if comparison and "mean" in verdicts and verdicts["mean"].verdict in ("not better", "unclear"):
        text = "No better than the mean" if verdicts["mean"].verdict == "not better" else "Unclear"
        return answer("warn", text, comparison.verdict, path="/models")
    if not enough or not expected or origin not in ("live", "probe"):
        live = sum(each.n for by, each in reading.champion_errors.items() if by.origin == "live")
        missing = f"{count(live)} of the {MIN_PAIRS} live predictions with a true value that are needed."
        if enough and not expected:
            missing = "No comparison of this model is known."
        return answer("none", "Not known yet", f"{missing} {why}" if sums.n else missing)
    if comparison and "linear" in verdicts and verdicts["linear"].high < 0:
        return answer("warn", "A linear model is better", comparison.verdict, path="/models")
    return answer("good", "Yes" if origin == "live" else "Yes, on probes", why)


def are_few(data: Data) -> bool:
    """Return whether live or reference records are so few that the stability index exceeds its limits by chance."""
    return min(data.samples, data.reference.samples if data.reference else MIN_RECORDS) < MIN_RECORDS


def evidence_by_column(reading: Reading) -> dict[str, float]:
    """Return the most evidence that any feature of a column has moved; a feature of several columns stands for itself."""
    columns, found = columns_of_features(reading.facts.dataset), dict[str, float]()
    for each in [*reading.data.raw, *reading.data.processed]:
        if each.evidence is not None:
            name = columns.get(each.name, each.name)
            found[name] = max(found.get(name, 0.0), each.evidence.value)
    return found


def data_answer(reading: Reading) -> Answer:
    """Return whether the data are as they were in the champion's training."""
    answer = partial(Answer, "Is the data as expected?", path="/data")
    data = reading.data
    indices = {each.name: each.psi for each in data.raw or data.processed if each.psi is not None}
    evidence = evidence_by_column(reading)
    moved = [name for name, value in evidence.items() if value >= SURE]
    if not indices and not moved:
        why = reading.awaiting("drift", "Waiting for predictions and for the champion's reference.")
        return answer("none", "Not known yet", why)
    worst = max(indices, key=lambda name: indices[name], default="")
    age = reading.at - data.at
    when = f" over {count(data.samples)} predicted records" + (f", {lasting(age)} ago" if data.at and age > OLD else "")
    if evidence:
        strongest = max(evidence, key=lambda name: evidence[name])
        why = f"Strongest evidence of a drift: {strongest}, {evidence[strongest]:.1f} of {SURE:g}{when}."
    else:
        why = f"Largest drift: {worst}, PSI {number(indices[worst])}{when}."
        moved = [] if are_few(data) else [name for name, index in indices.items() if index > SIGNIFICANT]
    if moved:
        return answer("bad", "1 column has changed" if len(moved) == 1 else f"{len(moved)} columns have changed", why)
    if are_few(data):
        trained = data.reference.samples if data.reference else MIN_RECORDS
        what = "The champion was trained" if trained < MIN_RECORDS else "Predictions were made"
        n = trained if trained < MIN_RECORDS else data.samples
        return answer("none", "Not known yet", f"{what} on {n} records; {MIN_RECORDS} are needed to compare distributions.")
    for each in data.raw:
        if each.missing > each.missing_reference + MUCH_MISSING:
            reason = f"{each.name}: {share(each.missing)} missing, {share(each.missing_reference)} in the reference."
            return answer("warn", "Values missing", reason)
    if not evidence and indices[worst] >= MODERATE:
        return answer("warn", "Moderate drift", why)
    return answer("good", "Yes", why)


def alert_answer(reading: Reading) -> Answer:
    """Return whether there are open alerts."""
    answer = partial(Answer, "Does anything need attention?", path="/alerts")
    found = reading.open_alerts
    if not found:
        past = len(reading.past_alerts)
        why = f"{past} ended in the last {reading.period.label}." if past else f"None in the last {reading.period.label}."
        return answer("good", "No open alerts", why)
    level: Level = "bad" if any(alert.severity == "critical" for alert in found) else "warn"
    return answer(level, "1 open alert" if len(found) == 1 else f"{len(found)} open alerts", found[0].sentence)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
