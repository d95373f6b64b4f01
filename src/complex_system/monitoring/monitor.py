"""Everything that is watched, in one object: messages go in, a point of figures comes out. Knows no broker and no database."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import numpy as np

from complex_system.domain.dataset import Column, Dataset
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError
from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.change_points import Change
from complex_system.monitoring.coverage import Coverage
from complex_system.monitoring.drift import DataDrift, measure
from complex_system.monitoring.error_watch import Changes, ChangeWatch, ErrorReference, KeptComparison
from complex_system.monitoring.evidence import KeptTest, SequentialTest
from complex_system.monitoring.flow import LiveRecord, LiveWindow, RecordFlow
from complex_system.monitoring.history import History, Pair
from complex_system.monitoring.joining import PredictionJoin
from complex_system.monitoring.performance import KeptWindows, ModelWindows, ServedMetrics, WindowPair
from complex_system.monitoring.points import Figure, Figures
from complex_system.monitoring.prediction_log import PredictionLog
from complex_system.monitoring.reference import Reference
from complex_system.monitoring.services import KnownServices, ServiceBook
from complex_system.pipeline.pipeline import Pipeline
from complex_system.protocol.promotion import Promotion
from complex_system.protocol.serving import (
    PredictedRecord,
    PredictionFailed,
    PredictionMade,
    ShadowPredictions,
    TruthKnown,
)
from complex_system.protocol.training import ComparisonFinished

CHAMPIONS_SERVICE = "ml_serving_mlflow"
"""The service whose figures are the system's own, ``performance/rmse`` and so on."""
MAX_GROUPS = 20
"""Categories of the column by which errors are grouped; the rest is ``other``."""


class Monitor:
    """Records what services announce, and keeps windows, history and the newest figures.

    All methods are quick and run in one thread, except :meth:`measure_data` and :meth:`prepare`.

    Attributes:
        history: Roll-ups, samples, champions, alerts.
        services: Services and their replicas.
        join: Predictions and truths.
        log: Every prediction, for those who export them.
        windows: Moving windows by model.
        flow: Record counts.
        reference: What the champion was trained on; None until it is there.
        figures: The newest point.
        at: When it was taken, seconds since 1970; 0 before the first.
        served: The model of each serving service in the newest point, by service.
        shadows: Its challengers.
        drift: The newest comparison with the reference.
        comparison: The newest comparison of models; None before the first.
        promotion: Champion, candidate, pin and people's decisions; None until ``ml_consumer`` has told.
        outliers: Pairs in the champion's window that are far from the rest, the oldest first: perhaps slips in the truth.
    """

    def __init__(
        self,
        dataset: Dataset,
        window: int,
        history: History,
        *,
        silent_after: float = 8.0,
        services: Collection[str] | None = None,
        log: PredictionLog | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Make a monitor that knows nothing yet.

        Args:
            dataset: The declared data set.
            window: Pairs, requests and records in the moving windows.
            history: Where everything is recorded.
            silent_after: Seconds without a heartbeat after which a service is silent.
            services: Names of the services whose heartbeats count; None for all.
            log: Keeps every prediction; none is kept by default.
            monotonic: Monotonic seconds.
            now: Seconds since 1970, by the clock whose times the history has.
        """
        self.dataset = dataset
        self.history = history
        self.services = ServiceBook(silent_after, monotonic, services, now)
        self.join = PredictionJoin(self._joined)
        self.log = log or PredictionLog(days=1, rows=0)
        self.windows = ModelWindows(window, monotonic)
        self.flow = RecordFlow()
        self.reference: Reference | None = None
        self.figures = Figures()
        self.at = 0.0
        self.served: dict[str, ServedMetrics] = {}
        self.shadows: list[ServedMetrics] = []
        self.drift = DataDrift()
        self.comparison: KeptComparison | None = None
        self.promotion: Promotion | None = None
        self.outliers: list[WindowPair] = []
        self._watch = ChangeWatch()
        self._now = now
        self._pipeline = Pipeline(dataset)
        self._group = group_column(dataset)
        self._groups = frozenset(self._group.categories[:MAX_GROUPS]) if self._group else frozenset()
        self._live = LiveWindow(window)
        self._coverage = Coverage()
        self._test: SequentialTest | None = None
        self._tested = 0

    def prepare(self) -> None:
        """Import what takes seconds; to be called in a thread."""
        self._watch.prepare()

    @property
    def changes(self) -> tuple[Change, ...]:
        """The newest changes of the champions' errors, the newest last."""
        return self._watch.changes

    @property
    def now(self) -> float:
        """The present time, by the clock of the history."""
        return self._now()

    @property
    def records(self) -> list[LiveRecord]:
        """The records in the live window, each once, the oldest first."""
        return self._live.records

    @property
    def origins(self) -> dict[str, int]:
        """How many of them clients asked for, and how many this system did, for stored or for simulated records."""
        return dict(Counter(each.origin for each in self.records))

    # What is recorded

    def predicted(self, event: PredictionMade) -> bool:
        """Record predictions; return whether their service answers with another model than before."""
        by, at = Served(event.service, event.model, event.version, origin=event.origin), self._now()
        changed = self._answered(at, by, event.milliseconds, event.predictions, [e.prediction for e in event.predictions])
        self.log.add(at, by, [(each, self._warning(each)) for each in event.predictions], event.half_width)
        self._coverage.told(event)
        if event.pipeline_version == self.dataset.version:
            self._live.add(at, event.predictions, event.origin)
        for shadow in event.shadows:
            self._shadowed(at, event, shadow)
        return changed

    def failed(self, event: PredictionFailed) -> None:
        """Record failed requests."""
        for code, count in event.failures.items():
            self.history.minute(self._now()).failed(event.service, code, count)

    def measured(self, event: TruthKnown) -> None:
        """Record measured values."""
        for each in event.truths:
            self.join.measured(each.id, each.truth, self.now)

    def compared(self, event: ComparisonFinished) -> None:
        """Record a comparison.

        A champion that stays is still judged by the error with which it was crowned, not by that on the newest data.
        """
        self.comparison = KeptComparison.of(event, self.comparison or self.history.earlier("comparison", KeptComparison))
        self.history.state("comparison", self._now(), self.comparison)

    # A point

    def measure_data(self, records: Sequence[LiveRecord], reference: Reference) -> DataDrift:
        """Return live records beside the reference, and test those that are new; a new reference begins with the next ones.

        Takes some milliseconds: to be called in a thread.
        """
        usable, features = self._features(list(records))
        if self._test is None or self._test.reference is not reference:
            before, self._test = self._test, SequentialTest(reference, self.dataset)
            self._test.restore(before.kept() if before else self.history.earlier("evidence", KeptTest) or KeptTest())
        new = np.array([each.number > self._tested for each in usable], dtype=bool)
        self._test.update(np.array([each.at for each in usable])[new], features[new])
        self._tested = max([self._tested, *(each.number for each in usable)])
        return measure(self.dataset, reference, [each.record for each in usable], features, self._test)

    def point(self, host: Figures, drift: DataDrift | None) -> Figures:
        """Record a point in the history and return its figures (docs/services/ml_monitoring.md lists them).

        Args:
            host: Of the host.
            drift: From :meth:`measure_data`; None while records or the reference are missing.
        """
        self.at = at = self._now()
        self.served, self.shadows = self.windows.metrics(), self.windows.shadows()
        figures = Figures({**host, **self._performance(), **self.services.figures(), **self.flow.figures()})
        if drift is not None:
            self.drift = msgspec.structs.replace(drift, at=at)
            figures.update(drift.figures())
            self.history.state("data", at, self.drift)
            if self._test is not None:
                kept = msgspec.structs.replace(self._test.kept(), asked_at=self._live.asked_at)
                self.history.state("evidence", at, kept)
        self._add_rejected(figures)
        figures.setdefault(Figure("drift/samples"), float(len(self.records)))
        if compared := [each.distance for each in self.records if each.distance is not None]:
            far = sum(distance > 1.0 for distance in compared)
            figures.add("data", {"far": far / len(compared), "compared": len(compared)})
        figures.add("performance", {"waiting": self.join.waiting})
        self.figures = figures.finite()
        self.history.minute(at).read(self.figures)
        self.keep_services()
        self.history.state("windows", at, self.windows.kept())
        return self.figures

    def keep_services(self) -> None:
        """Keep the services of this moment for the next process, which then does not miss those that have stopped by now."""
        self.history.state("services", self._now(), KnownServices(services=tuple(self.services.services())))

    def restore(self) -> None:
        """Take up what the loaded history has from before a restart."""
        earlier = self.history.earlier
        self.services.expect((earlier("services", KnownServices) or KnownServices()).services)
        kept = earlier("windows", KeptWindows) or KeptWindows()
        self.windows.restore(kept)
        self.comparison = self.comparison or earlier("comparison", KeptComparison)
        self._watch.changes = self.changes or (earlier("changes", Changes) or Changes()).changes
        mine = [each for each in kept.pairs if each[0].service == CHAMPIONS_SERVICE and not each[0].shadow]
        self._watch.replay(mine, self.comparison)
        if not self.drift.at:
            self.drift = earlier("data", DataDrift) or self.drift
        tested = earlier("evidence", KeptTest) or KeptTest()
        self._live.asked_at = self._live.asked_at or tested.asked_at
        if self._test is not None:
            self._test.restore(tested)

    def baseline(self, served: Served) -> float | None:
        """Return the RMSE of a served version on the hold-out data.

        The champion's is that of its coronation, another one's that of the last comparison. None where it was in neither.
        """
        return self.comparison.holdout_rmse(served) if self.comparison else None

    # Inside

    def _performance(self) -> Figures:
        figures = Figures()
        figures.add("performance", {"count": 0.0})
        for service, each in self.served.items():
            numbers = {**each.performance, **each.latency}
            for origin, errors in each.by_origin.items():
                numbers |= {f"{name}_{origin}": errors[name] for name in ("rmse", "count") if origin}
            window, reference = each.errors, self._reference_of(each.served)
            if window.pairs and reference is not None:
                numbers |= reference.judge(window.errors)
            alike = reference.residuals.alike if reference is not None and reference.residuals is not None else 1.0
            each.performance.update(self._coverage.judge(each.served, window.errors, alike))
            numbers |= each.performance
            figures.add("performance", numbers, service)
            if service == CHAMPIONS_SERVICE:
                self.outliers = self._watch.outliers(window, reference)
                changed_for = self._watch.changed_for(
                    self.at, each.served, window, reference, numbers.get("error_ratio_low", 0.0)
                )
                figures.add("performance", {**numbers, "outliers": len(self.outliers), "changed_for": changed_for})
                latency = {name: numbers[f"latency_ms_{name}"] for name in LATENCIES if f"latency_ms_{name}" in numbers}
                figures.add("latency", {**latency, "count": each.requests})
        for each in self.shadows:
            figures.add("performance/shadow", each.performance, each.served.model)
        return figures

    def _reference_of(self, served: Served) -> ErrorReference | None:
        return self.comparison.reference(served) if self.comparison else None

    def _add_rejected(self, figures: Figures) -> None:
        """Count rejected and processed records with the live ones, which are those that were predicted."""
        for column in self.dataset.columns:
            if column.type == "category":
                figures.setdefault(Figure("data/new_categories", column.name), 0.0)
            figure = Figure("data/out_of_range", column.name)
            share = figures.pop(Figure("data/rejected_out_of_range", column.name), 0.0)
            if share or figure in figures:
                figures[figure] = max(figures.get(figure, 0.0), share)

    def _answered(
        self, at: float, by: Served, milliseconds: float, records: Sequence[PredictedRecord], values: Sequence[float]
    ) -> bool:
        changed = self.windows.answered(by, milliseconds, len(values))
        self.history.minute(at).answered(by, milliseconds, len(values))
        for each, value in zip(records, values, strict=False):
            if each.id is not None:
                self.join.predicted(at, by, each.id, value, self._group_of(each.record))
        return changed

    def _shadowed(self, at: float, event: PredictionMade, shadow: ShadowPredictions) -> None:
        if shadow.error:
            self.history.minute(at).failed(f"{event.service} (shadow)", shadow.model, 1)
            return
        by = Served(event.service, shadow.model, shadow.version, shadow=True, origin=event.origin)
        self._answered(at, by, shadow.milliseconds, event.predictions, shadow.predictions)

    def _joined(self, pair: Pair) -> None:
        if not self.windows.joined(pair):  # such as one that was drawn again
            return
        self.history.paired(pair)
        if pair.served.service != CHAMPIONS_SERVICE or pair.served.shadow:
            return
        change = self._watch.joined(pair, self._reference_of(pair.served))
        if change is not None:
            self.history.state("changes", change.noticed, Changes(changes=self.changes))

    def _warning(self, each: PredictedRecord) -> str:
        lenient = self._pipeline.lenient
        found = [
            f"{column.name} is outside of its range" for column in lenient if column.is_outside(each.record.get(column.name))
        ]
        far = ["far from the training data"] if each.distance is not None and each.distance > 1.0 else []
        return "; ".join([*found, *far])

    def _group_of(self, record: Record) -> str:
        if self._group is None:
            return ""
        value = record.get(self._group.name)
        return f"{self._group.name}={value if value in self._groups else 'other'}"

    def _features(self, records: list[LiveRecord]) -> tuple[list[LiveRecord], Any]:
        while True:
            try:
                return records, self._pipeline.features([each.record for each in records])
            except InvalidRecordError as error:
                bad = {fault["record"] for fault in error.faults}
                records = [record for position, record in enumerate(records) if position not in bad]


LATENCIES = ("mean", "p50", "p95", "p99")


def group_column(dataset: Dataset) -> Column | None:
    """Return the column by which errors are grouped: the first category that every record has, else the first one."""
    categories = [column for column in dataset.columns if column.type == "category"]
    return next((column for column in categories if not column.optional), categories[0] if categories else None)
