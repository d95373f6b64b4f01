"""Everything that is watched, in one object: events go in, a point of flat metrics comes out. Knows no broker and no database."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from complex_system.domain.dataset import Column, Dataset
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError
from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.change_points import ChangeDetector
from complex_system.monitoring.drift import DataWindow, drift_metrics
from complex_system.monitoring.flow import RecordFlow
from complex_system.monitoring.history import History, Pair
from complex_system.monitoring.joining import PredictionJoin
from complex_system.monitoring.performance import ModelWindows, ServedMetrics
from complex_system.monitoring.reference import Reference
from complex_system.monitoring.services import ServiceBook
from complex_system.pipeline.pipeline import Pipeline

CHAMPIONS_SERVICE = "ml_serving_mlflow"
"""The service whose figures are the system's own, ``performance/rmse`` and so on."""
MOST_GROUPS = 20
"""Categories of the column by which errors are grouped; the rest is ``other``."""
MOST_CHANGES = 50
MOST_DETECTORS = 8


class Monitor:
    """Takes what services announce, and keeps windows, history and the newest figures.

    All methods are quick and run in one thread, but for :meth:`measure_data` and :meth:`prepare`.

    Attributes:
        history: Roll-ups, samples, champions, alerts.
        services: Who is there.
        join: Predictions and truths.
        windows: Moving windows by model.
        flow: Record counts.
        reference: What the champion was trained on; None until it is there.
        metrics: The newest point.
        at: When it was taken, seconds since 1970; 0 before the first.
    """

    def __init__(
        self,
        dataset: Dataset,
        window: int,
        history: History,
        *,
        silent_after: float = 8.0,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Makes a monitor that knows nothing yet.

        Args:
            dataset: The declared data set.
            window: Pairs, requests and records in the moving windows.
            history: Where all goes.
            silent_after: Seconds without a heartbeat after which a service is silent.
            monotonic: Monotonic seconds.
            now: Seconds since 1970.
        """
        self.dataset = dataset
        self.history = history
        self.services = ServiceBook(silent_after, monotonic)
        self.join = PredictionJoin(self._joined)
        self.windows = ModelWindows(window, monotonic)
        self.flow = RecordFlow(now())
        self.reference: Reference | None = None
        self.metrics: dict[str, float] = {}
        self.at = 0.0
        self.served: dict[str, ServedMetrics] = {}
        self.shadows: list[ServedMetrics] = []
        self.system: dict[str, float] = {}
        self._now = now
        self._pipeline = Pipeline(dataset)
        self._group = group_column(dataset)
        self._groups = frozenset(self._group.categories[:MOST_GROUPS]) if self._group else frozenset()
        self._records: deque[Record] = deque(maxlen=window)
        self._detectors: OrderedDict[Served, ChangeDetector] = OrderedDict()
        self._detect = False

    def prepare(self) -> None:
        """Imports what takes seconds; to be called in a thread."""
        self._detect = ChangeDetector().is_there

    @property
    def records(self) -> list[Record]:
        """The records in the live window, the oldest first."""
        return list(self._records)

    # What is taken

    def predicted(self, event: Mapping[str, Any]) -> bool:
        """Takes a ``prediction-made``; returns whether its service answers with another model than before."""
        predictions = event["predictions"]
        at, milliseconds = self._now(), float(event["milliseconds"])
        by = Served(str(event["service"]), str(event["model"]), str(event["version"]))
        values = [float(each["prediction"]) for each in predictions]
        changed = self.windows.answered(by, milliseconds, len(values))
        minute = self.history.minute(at)
        minute.answered(by, milliseconds, len(values))
        for each, value in zip(predictions, values, strict=True):
            if each.get("id") is not None:
                self.join.predicted(at, by, str(each["id"]), value, self._group_of(each["record"]))
        if event.get("pipeline_version") == self.dataset.version:
            self._records.extend(each["record"] for each in predictions[-(self._records.maxlen or 0) :])
        for shadow in event.get("shadows") or ():
            self._shadowed(at, by.service, shadow, predictions)
        return changed

    def failed(self, event: Mapping[str, Any]) -> None:
        """Takes a ``prediction-failed``."""
        for code, count in event["failures"].items():
            self.history.minute(self._now()).failed(str(event["service"]), str(code), int(count))

    def measured(self, event: Mapping[str, Any]) -> None:
        """Takes a ``truth-known``."""
        for each in event["truths"]:
            self.join.measured(str(each["id"]), float(each["truth"]))

    def compared(self, comparison: Mapping[str, Any]) -> None:
        """Takes a ``comparison-finished``."""
        champion = comparison.get("champion") or {}
        name = f"{champion.get('model')} {champion.get('version')}"
        # A champion that stays is judged by the error with which it was crowned, not by what it has come to on the newest data.
        known = self.history.states.get("comparison", {}).get("crowned_rmse", {})
        crowned = {name: known.get(name, champion["rmse"])} if champion.get("rmse") else {}
        self.history.state("comparison", self._now(), {**comparison, "crowned_rmse": crowned})

    # A point

    def measure_data(self, records: Sequence[Record], reference: Reference) -> dict[str, Any]:
        """Live records against the reference, see ``drift.DataWindow``. Takes some milliseconds: to be called in a thread."""
        usable, features = self._features(list(records))
        return DataWindow(self.dataset, reference).measure(usable, features)

    def point(self, system: Mapping[str, float], data: dict[str, Any] | None) -> dict[str, float]:
        """Takes a point into the history and returns its metrics by flat name (docs/services/ml_monitoring.md lists them).

        Args:
            system: Of the host.
            data: From :meth:`measure_data`; None while there are no records or no reference.
        """
        at = self._now()
        self.at, self.system = at, dict(system)
        self.served, self.shadows = self.windows.metrics(), self.windows.shadows()
        metrics = {**system, **self._performance(), **self.services.metrics(), **self.flow.metrics()}
        if data is not None:
            metrics |= {**drift_metrics(data), "data/samples": float(data["samples"])}
            self.history.state("data", at, {**data, "at": at, "source": self.reference.source if self.reference else ""})
        self._add_rejected(metrics)
        metrics.setdefault("drift/samples", float(len(self._records)))
        metrics["performance/waiting"] = float(self.join.waiting)
        self.metrics = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self.history.minute(at).read(self.metrics)
        self.note_services()
        self.history.state("windows", at, self.windows.as_dict())
        return self.metrics

    def note_services(self) -> None:
        """Notes who is there at this moment, for the next process: who has stopped by now is not missed by it."""
        self.history.state("services", self._now(), {"services": self.services.as_list()})

    def loaded(self) -> None:
        """Takes up what the history has from before a restart."""
        states = self.history.earlier
        self.services.expected(states.get("services", {}).get("services", []))
        self.windows.load(states.get("windows", {}))

    def baseline(self, served: Served) -> float | None:
        """RMSE of a served version on the hold-out data: the champion's when it was crowned, another one's of the last comparison.

        None where it was in neither.
        """
        comparison = self.history.states.get("comparison", {})
        crowned = comparison.get("crowned_rmse", {}).get(f"{served.model} {served.version}")
        if crowned:
            return float(crowned)
        for result in comparison.get("results", ()):
            if result.get("model") == served.model and str(result.get("version")) == served.version:
                rmse = result.get("rmse")
                return float(rmse) if rmse else None
        return None

    # Inside

    def _performance(self) -> dict[str, float]:
        metrics: dict[str, float] = {"performance/count": 0.0}
        for service, each in self.served.items():
            figures = {**each.performance, **each.latency}
            baseline, rmse = self.baseline(each.served), each.performance.get("rmse")
            if baseline and rmse is not None:
                figures["rmse_relative"] = rmse / baseline
            metrics |= {f"performance/{service}/{name}": value for name, value in figures.items()}
            if service == CHAMPIONS_SERVICE:
                metrics |= {f"performance/{name}": value for name, value in figures.items()}
                beginning = "latency_ms_"
                metrics |= {
                    f"latency/{name.removeprefix(beginning)}": value
                    for name, value in figures.items()
                    if name.startswith(beginning)
                }
                metrics["latency/count"] = float(each.requests)
        for each in self.shadows:
            name = f"performance/shadow/{each.served.model}"
            metrics |= {f"{name}/{figure}": value for figure, value in each.performance.items()}
        return metrics

    def _add_rejected(self, metrics: dict[str, float]) -> None:
        """What a column's checks refuse never is in the live window, so the rejected records count with it."""
        for column in self.dataset.columns:
            if column.type == "category":
                metrics.setdefault(f"data/new_categories/{column.name}", 0.0)
            name = f"data/out_of_range/{column.name}"
            share = metrics.pop(f"data/rejected_out_of_range/{column.name}", 0.0)
            if share or name in metrics:
                metrics[name] = max(metrics.get(name, 0.0), share)

    def _shadowed(
        self, at: float, service: str, shadow: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
    ) -> None:
        if "error" in shadow:
            self.history.minute(at).failed(f"{service} (shadow)", str(shadow["model"]), 1)
            return
        by = Served(service, str(shadow["model"]), str(shadow["version"]), True)
        values = shadow["predictions"]
        self.windows.answered(by, float(shadow["milliseconds"]), len(values))
        self.history.minute(at).answered(by, float(shadow["milliseconds"]), len(values))
        for each, value in zip(predictions, values, strict=False):
            if each.get("id") is not None:
                self.join.predicted(at, by, str(each["id"]), float(value), self._group_of(each["record"]))

    def _joined(self, pair: Pair) -> None:
        self.windows.joined(pair)
        self.history.paired(pair)
        if not self._detect or pair.served.service != CHAMPIONS_SERVICE or pair.served.shadow:
            return
        detector = self._detectors.setdefault(pair.served, ChangeDetector())
        if len(self._detectors) > MOST_DETECTORS:
            self._detectors.popitem(last=False)
        change = detector.add(pair.at, abs(pair.residual))
        if change is not None:
            known = self.history.states.get("changes", {}).get("changes", [])
            found = {**change.as_dict(), "model": pair.served.model, "version": pair.served.version}
            self.history.state("changes", change.noticed, {"changes": [*known, found][-MOST_CHANGES:]})

    def _group_of(self, record: Mapping[str, Any]) -> str:
        if self._group is None:
            return ""
        value = record.get(self._group.name)
        return f"{self._group.name}={value if value in self._groups else 'other'}"

    def _features(self, records: list[Record]) -> tuple[list[Record], Any]:
        while True:
            try:
                return records, self._pipeline.features(records)
            except InvalidRecordError as error:
                bad = {fault["record"] for fault in error.faults}
                records = [record for position, record in enumerate(records) if position not in bad]


def group_column(dataset: Dataset) -> Column | None:
    """The column by which errors are grouped: the first category that every record has, else the first one."""
    categories = [column for column in dataset.columns if column.type == "category"]
    return next((column for column in categories if not column.optional), categories[0] if categories else None)
