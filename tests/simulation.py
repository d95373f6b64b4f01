"""A plant in simulated time: lab records, a trained model, the real monitoring and the real alert rules, and no waiting.

``python tests/simulation.py [SEEDS] [defaults|demonstration]`` prints how often the shipped rules are wrong and how long they need
to notice each scenario; docs/alerts.md has the figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError
from complex_system.monitoring.alerts.evaluation import AlertChange, AlertRules
from complex_system.monitoring.alerts.rules import AlertRule, load_rules
from complex_system.monitoring.history import History
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.points import Figures
from complex_system.monitoring.reference import Reference
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.database import RecordCounts, Rejection
from complex_system.protocol.scores import Residuals
from complex_system.protocol.serving import PredictedRecord, PredictionMade, Truth, TruthKnown
from complex_system.sources.scenarios import TARGET, Disturbance, Scenario
from complex_system.training.base import TrainedModel, TrainingParameters, residuals_of, score
from complex_system.training.data import SampleCollector
from complex_system.training.lightgbm import LightGBMTrainer
from complex_system.training.split import Part
from monitoring_page.messages import compared, comparison
from samples import processed_page

START = 1_750_000_000.0


@dataclass(frozen=True)
class Pace:
    """How quick a plant is.

    Attributes:
        requests: Seconds between two requests for predictions.
        records: Records of a request.
        points: Seconds between two points of monitoring.
        window: Records in its windows.
        live: New raw records a second.
        ramp: Seconds until a shift is complete.
    """

    requests: float = 5.0
    records: int = 2
    points: float = 10.0
    window: int = 500
    live: float = 2.0
    ramp: float = 300.0


DEFAULT = Pace()
"""The services' defaults."""
DEMONSTRATION = Pace(1.0, 20, 2.0, 300, 40.0, 15.0)
"""The settings of ``fiot run --scenario``."""


@dataclass(frozen=True)
class Champion:
    """A trained model, its error on the hold-out part, and what it was trained on."""

    model: TrainedModel
    rmse: float
    residuals: Residuals
    reference: Reference


@cache
def champion(seed: int = 1, records: int = 10_000) -> Champion:
    """LightGBM on as many records as the source makes at its start."""
    dataset = Dataset.load()
    collector = SampleCollector(dataset, list(Part))
    page = processed_page(seed, records)
    collector.add(page.table)
    data = collector.training_data()
    model = LightGBMTrainer(TrainingParameters()).fit(data, lambda _: None)
    holdout = collector.samples(Part.HOLDOUT)
    raw = [record for record in Laboratory(seed).records(records) if record[TARGET] is not None]
    table = pl.DataFrame(raw, infer_schema_length=None).to_arrow()
    reference = Reference.of(dataset, data.train.x, table)
    predicted = model.predict(holdout.x)
    return Champion(model, score(holdout.y, predicted).rmse, residuals_of(predicted - holdout.y), reference)


class Plant:
    """Runs in simulated time, from the first prediction on."""

    def __init__(self, seed: int, pace: Pace = DEFAULT, rules: tuple[AlertRule, ...] | None = None) -> None:
        self.dataset = Dataset.load()
        self.pace = pace
        self.now = START
        self.monitor = Monitor(self.dataset, pace.window, History(), monotonic=lambda: self.now, now=lambda: self.now)
        self.monitor.reference = champion().reference
        best = champion()
        self.monitor.compared(comparison(compared("lab-lightgbm", "1", best.rmse, residuals=best.residuals)))
        self.rules = AlertRules(load_rules() if rules is None else rules, self.dataset)
        self.scenario = Scenario("normal", START)
        self._laboratory = Laboratory(seed + 1_000)
        self._disturbance = Disturbance(seed)
        self._pipeline = Pipeline(self.dataset)
        self._counts = RecordCounts(raw=10_000, processed=10_000, labelled=10_000, rejected=10_000)
        self._noise = np.random.default_rng(seed)
        self._due = 0.0

    def begin(self, scenario: str) -> None:
        """Lets something happen from now on."""
        self.scenario = Scenario.named(scenario, self.now, self.pace.ramp)

    def run(self, seconds: float) -> Iterator[tuple[float, AlertChange]]:
        """Goes on for so many seconds; what changes, with the seconds since the beginning."""
        end = self.now + seconds
        while self.now < end:
            self._due += self.pace.points
            self._live()
            while self._due >= self.pace.requests:
                self._due -= self.pace.requests
                self._request()
            self.now += self.pace.points
            figures = self._point()
            yield from ((self.now - START, change) for change in self.rules.evaluate(self.now, figures, self.monitor.drift))

    def _measured(self) -> Record:
        return self._disturbance.apply(self._laboratory.measured_record(), self.scenario, self.now)

    def _live(self) -> None:
        """The new raw records; some may be rejected."""
        count = int(self.pace.live * self.pace.points)
        records = [self._measured() for _ in range(count)]
        rejections = _rejections(self._pipeline, records)
        self._counts = RecordCounts(
            raw=self._counts.raw + count, processed=self._counts.processed + count - len(rejections),
            labelled=self._counts.labelled + count // 2, rejected=self._counts.rejected + len(rejections),
        )  # fmt: skip
        self.monitor.flow.counted(self.now, self._counts)
        self.monitor.flow.rejected(self.now, rejections)

    def _request(self) -> None:
        records = [self._measured() for _ in range(self.pace.records)]
        bad = {rejection.id for rejection in _rejections(self._pipeline, records)}
        records = [record for record in records if record[ID] not in bad]
        if not records:
            return
        blind = [{**record, TARGET: None} for record in records]
        predictions = champion().model.predict(self._pipeline.features(blind))
        self.monitor.predicted(PredictionMade(
            service=CHAMPIONS_SERVICE, model="lab-lightgbm", version="1", pipeline_version=self.dataset.version,
            milliseconds=float(self._noise.lognormal(1.0, 0.5)),
            predictions=tuple(
                PredictedRecord(id=record[ID], record=record, prediction=float(value))
                for record, value in zip(blind, predictions, strict=True)
            ),
        ))  # fmt: skip
        truths = [Truth(id=record[ID], truth=record[TARGET]) for record in records if record[TARGET] is not None]
        self.monitor.measured(TruthKnown(truths=tuple(truths)))

    def _point(self) -> Figures:
        reference, records = self.monitor.reference, self.monitor.records
        drift = self.monitor.measure_data(records, reference) if reference is not None and records else None
        return self.monitor.point(Figures(), drift)


def _rejections(pipeline: Pipeline, records: list[Record]) -> list[Rejection]:
    try:
        pipeline.features(records)
    except InvalidRecordError:
        return [each for record in records for each in _rejection(pipeline, record)]
    return []


def _rejection(pipeline: Pipeline, record: Record) -> list[Rejection]:
    try:
        pipeline.features([record])
    except InvalidRecordError as error:
        reason = "; ".join(f"{fault['field']}: {fault['problem']}" for fault in error.faults)
        return [Rejection(id=record[ID], reason=reason)]
    return []


def false_alarms(
    seeds: range, pace: Pace, rules: tuple[AlertRule, ...], seconds: float
) -> list[tuple[int, float, AlertChange]]:
    """Alerts of normal operation: seed, seconds, change."""
    found = []
    for seed in seeds:
        found += [(seed, at, change) for at, change in Plant(seed, pace, rules).run(seconds) if change.kind == "raised"]
    return found


def delays(
    scenario: str, seeds: range, pace: Pace, rules: tuple[AlertRule, ...], before: float, after: float
) -> dict[str, list[float]]:
    """Seconds from a scenario's begin to the first alert of each rule, of every seed."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        plant = Plant(seed, pace, rules)
        for _ in plant.run(before):
            pass
        plant.begin(scenario)
        began, seen = plant.now - START, set()
        for at, change in plant.run(after):
            rule = change.alert.rule
            if change.kind == "raised" and rule not in seen:
                seen.add(rule)
                found.setdefault(rule, []).append(at - began)
    return found


def main() -> None:
    """Prints the figures of docs/alerts.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="?", default=20, help="how many; 20 unless given")
    parser.add_argument("rules", nargs="?", choices=["defaults", "demonstration"], help="both unless given")
    given = parser.parse_args()
    count = given.seeds
    quick = load_rules(None, str(Path(load_rules.__code__.co_filename).with_name("alerts-quick.yaml")))
    say: Any = sys.stdout.write
    for name, pace, rules, before, after in (
        ("defaults", DEFAULT, load_rules(), 1800.0, 3600.0), ("demonstration", DEMONSTRATION, quick, 60.0, 120.0),
    ):  # fmt: skip
        if given.rules not in (None, name):
            continue
        alarms = false_alarms(range(count), pace, rules, 1800.0)
        say(f"{name}: {len(alarms)} false alarms in {count} x 30 minutes\n")
        for seed, at, change in alarms:
            say(f"  seed {seed}, {at:.0f} s: {change.alert.sentence}\n")
        for scenario in ("shift", "noise", "missing", "concept", "new_category"):
            few = range(min(count, 5))
            for rule, seconds in sorted(delays(scenario, few, pace, rules, before, after).items()):
                say(f"  {scenario}: {rule} after {statistics.median(seconds):.0f} s "
                    f"({min(seconds):.0f} to {max(seconds):.0f}), in {len(seconds)} of {len(few)}\n")  # fmt: skip
        sys.stdout.flush()


if __name__ == "__main__":
    main()
