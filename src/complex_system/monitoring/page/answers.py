"""The plant engineer's four questions, each with a word and a reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from complex_system.monitoring.aggregates import ErrorSums
from complex_system.monitoring.drift import MODERATE, SIGNIFICANT
from complex_system.monitoring.page.diagram import kind_of
from complex_system.monitoring.page.formatting import count, error, number, share
from complex_system.monitoring.page.reading import Reading

FEW = 30
"""Joined pairs below which an error says nothing."""
FEW_RECORDS = 200
"""Predicted records below which the stability index rises above its band by chance, as the shipped alert rules have it."""
CLOSE, FAR = 1.15, 1.4
"""Live RMSE in units of the comparison's beyond which it is worth a look, and beyond which it is bad."""
MUCH_MISSING = 0.1
"""Share of missing values beyond the reference's that asks for a look at the sensor."""


class Answer(NamedTuple):
    """An answer: ``good``, ``warn``, ``bad``, or ``none`` while it is not known."""

    question: str
    kind: str
    word: str
    why: str
    path: str


def all_answers(reading: Reading) -> list[Answer]:
    """The answers in the order of the page."""
    return [runs(reading), is_good(reading), is_as_it_was(reading), asks_for_attention(reading)]


def runs(reading: Reading) -> Answer:
    """Does it run?"""
    question, path = "Does it run?", "/system"
    services = reading.services
    if not services:
        return Answer(question, "none", "Waiting", "No heartbeat has come yet.", path)
    by_kind: dict[str, list[str]] = {}
    for each in services:
        by_kind.setdefault(kind_of(str(each.get("state", ""))), []).append(str(each["service"]))
    replicas = sum(int(each.get("running", 0)) for each in services)
    if bad := by_kind.get("bad"):
        word = f"{len(bad)} of {len(services)} down"
        return Answer(question, "bad", word, f"{_names(bad)}: silent or failing.", path)
    if soon := by_kind.get("soon"):
        return Answer(question, "warn", "Not all yet", f"{_names(soon)}: starting or waiting.", path)
    up = len(by_kind.get("good", ()))
    return Answer(question, "good", "Yes", f"{up} services ready, {replicas} processes.", path)


def live_errors(reading: Reading) -> dict[str, float]:
    """The champion's errors in the period; where it has been joined too seldom, those of all that answered."""
    champion = reading.champion or {}
    own, whole = ErrorSums(), ErrorSums()
    for rollup in reading.rollups:
        for key, sums in rollup.errors.items():
            if key.group or key.served.shadow:
                continue
            whole.merge(sums)
            if (key.served.model, key.served.version) == (champion.get("model"), str(champion.get("version"))):
                own.merge(sums)
    return (own if own.n >= FEW else whole).metrics()


def is_good(reading: Reading) -> Answer:
    """Is the model good?"""
    question, path = "Is the model good?", "/predictions"
    champion, live, best = reading.champion, live_errors(reading), reading.best_possible
    if champion is None and "rmse" not in live:
        return Answer(question, "none", "No model yet", "The first training round has not crowned a champion.", path)
    enough = live["count"] >= FEW
    expected = float((champion or {}).get("rmse") or best or live.get("rmse", 0.0))
    against = f"{error(expected)} at its comparison" + (f", best possible {number(best)}" if best is not None else "")
    why = f"RMSE {error(live.get('rmse'))} live; {against}."
    if enough and live["rmse"] > FAR * expected:
        return Answer(question, "bad", "No", why, path)
    if (verdict := _beside_the_mean(reading)) is not None:
        return Answer(question, "warn", *verdict, "/models")
    if not enough:
        why = f"{count(live['count'])} predictions have met their truth; from {FEW} on the error says something."
        return Answer(question, "none", "Not known yet", why, path)
    if live["rmse"] > CLOSE * expected:
        return Answer(question, "warn", "Worse than it was", why, path)
    beaten = _beside_a_line(reading)
    return Answer(question, "warn", *beaten, "/models") if beaten else Answer(question, "good", "Yes", why, path)


def _beside_the_mean(reading: Reading) -> tuple[str, str] | None:
    """What the comparison found where no model is surely better than predicting the mean; None where one is, or nothing is known."""
    comparison = reading.comparison or {}
    word = ((comparison.get("verdicts") or {}).get("mean") or {}).get("verdict")
    if word not in ("not better", "unclear"):
        return None
    return ("No better than the mean" if word == "not better" else "Cannot be told"), str(comparison.get("verdict", ""))


def _beside_a_line(reading: Reading) -> tuple[str, str] | None:
    """What the comparison found where a linear model is surely better than the champion; None elsewhere."""
    comparison = reading.comparison or {}
    verdict = (comparison.get("verdicts") or {}).get("linear") or {}
    if float(verdict.get("high") or 0.0) >= 0:
        return None
    return "A linear model is better", str(comparison.get("verdict", ""))


def are_few(data: Mapping[str, Any]) -> bool:
    """Whether the live records or those of the reference are so few that the stability index is above its bands by chance."""
    reference = data.get("reference") or {}
    return min(int(data.get("samples") or 0), int(reference.get("samples") or FEW_RECORDS)) < FEW_RECORDS


def drifts(data: Mapping[str, Any]) -> dict[str, float]:
    """Stability index by column: of raw columns, and of features where no raw records were compared."""
    part = data.get("raw") or data.get("processed") or ()
    return {str(each["name"]): float(each["psi"]) for each in part if each.get("psi") is not None}


def is_as_it_was(reading: Reading) -> Answer:
    """Is the data as it was?"""
    question, path = "Is the data as it was?", "/data"
    indices = drifts(reading.data)
    if not indices:
        why = reading.awaited("drift", "Waiting for predictions and for the champion's reference.")
        return Answer(question, "none", "Not known yet", why, path)
    samples = int(reading.data.get("samples") or 0)
    trained = int((reading.data.get("reference") or {}).get("samples") or FEW_RECORDS)
    if min(samples, trained) < FEW_RECORDS:
        were = (
            f"The champion was trained on {trained} records"
            if trained < FEW_RECORDS
            else f"{samples} records were predicted"
        )
        return Answer(
            question, "none", "Not known yet", f"{were}; from {FEW_RECORDS} on their distribution says something.", path
        )
    worst = max(indices, key=lambda name: indices[name])
    why = f"Largest drift: {worst}, PSI {number(indices[worst])}."
    moved = [name for name, index in indices.items() if index > SIGNIFICANT]
    some = [name for name, index in indices.items() if index >= MODERATE]
    if moved:
        word = "1 column moved" if len(moved) == 1 else f"{len(moved)} columns moved"
        return Answer(question, "bad", word, why, path)
    gone = [each for each in reading.data.get("raw") or () if each["missing"] > each["missing_reference"] + MUCH_MISSING]
    if gone:
        reason = f"{gone[0]['name']}: {share(gone[0]['missing'])} missing, {share(gone[0]['missing_reference'])} in the reference."
        return Answer(question, "warn", "Values missing", reason, path)
    if some:
        return Answer(question, "warn", "Moderate drift", why, path)
    return Answer(question, "good", "Yes", why, path)


def asks_for_attention(reading: Reading) -> Answer:
    """Are there alerts?"""
    question, path = "Does it need me?", "/alerts"
    found = reading.open_alerts
    if not found:
        past = sum(alert.ended is not None and alert.ended >= reading.begin for alert in reading.alerts)
        why = f"{past} ended within {reading.period.label}." if past else f"None within {reading.period.label}."
        return Answer(question, "good", "No open alert", why, path)
    kind = "bad" if any(alert.severity == "critical" for alert in found) else "warn"
    return Answer(question, kind, f"{len(found)} open", found[0].sentence, path)


def _names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
