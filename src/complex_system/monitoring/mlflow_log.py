"""The monitoring run in MLflow, and the points that wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from complex_system.errors import TrackingRefusedError
from complex_system.monitoring.points import Figures
from complex_system.tracking.connection import experiment_id, load_mlflow, metric_name, open_client, translated

MAX_WAITING = 2000
"""Points that wait while MLflow is away; then the oldest are dropped."""
METRICS_PER_REQUEST = 1000
"""MLflow's own limit."""
METRICS_REPEATED = 100
"""Metrics in a request that may repeat what MLflow has: in a larger one MLflow 3.5.1 refuses those that it has.

Its SQL store looks the known ones up in parts of 100, and after each part inserts the others again.
"""
_KIND = "kind"
_NAME = "monitoring-"


@dataclass(frozen=True)
class Point:
    """The figures of one moment (UTC)."""

    at: datetime
    figures: Figures


class MonitoringRun:
    """Writes points to the day's run ``monitoring-<date>`` in MLflow, and continues one that exists. Blocking.

    Every method raises ``TrackingUnavailableError`` when MLflow does not answer. MLflow drops a metric that it has already, so the
    same points may be written again.
    """

    def __init__(self, tracking_uri: str, experiment: str, dataset: str, days: int = 7) -> None:
        """Prepare the run; nothing is sent yet.

        Args:
            tracking_uri: MLflow server.
            experiment: Name of the experiment; made when it is missing.
            dataset: Name of the data set.
            days: How long the runs of earlier days are kept. Older ones are deleted when a new day's run is opened; a process
                beside MLflow's server frees their room (``local/mlflow_server.py``).
        """
        self._uri = tracking_uri
        self._days = days
        self._experiment = experiment
        self._dataset = dataset
        self._day: date | None = None
        self._run: Any = None
        self._written: list[Point] = []
        self._per_request = METRICS_PER_REQUEST

    @property
    def run_id(self) -> str | None:
        """Id of the run that was written to last; None before the first write."""
        return self._run.info.run_id if self._run is not None else None

    def write(self, points: list[Point]) -> None:
        """Write points, oldest first, each to the run of its day. The step is the seconds since the run began.

        Points of the last call are left out: its caller may have given up before it ended, and sends them again.
        """
        done = {id(point) for point in self._written}
        points = [point for point in points if id(point) not in done]
        try:
            self._write(points)
        except BaseException:
            self._per_request = METRICS_REPEATED  # it is not known how much of it MLflow has
            raise
        self._written, self._per_request = points, METRICS_PER_REQUEST

    def _write(self, points: list[Point]) -> None:
        entities = load_mlflow().entities
        client = open_client(self._uri)
        with self._reopened_if_refused(), translated(self._uri, "logging monitoring metrics"):
            batch: list[Any] = []
            for point in points:
                if point.at.date() != self._day:
                    self._send(client, batch)
                    batch = []
                    self._open(client, point.at.date())
                millis = int(point.at.timestamp() * 1000)
                step = max(0, (millis - self._run.info.start_time) // 1000)
                metrics = point.figures.finite().flat().items()
                batch += [entities.Metric(metric_name(name), number, millis, step) for name, number in metrics]
            self._send(client, batch)

    def close(self) -> None:
        """Mark the run as finished."""
        if self._run is not None:
            client = open_client(self._uri)
            with translated(self._uri, "ending the monitoring run"):
                client.set_terminated(self._run.info.run_id)
            self._day = self._run = None

    @contextmanager
    def _reopened_if_refused(self) -> Iterator[None]:
        # Somebody may have deleted the run: the next try searches again and makes another.
        try:
            yield
        except TrackingRefusedError:
            self._day = self._run = None
            raise

    def _open(self, client: Any, day: date) -> None:
        experiment = experiment_id(client, self._experiment)
        name = f"{_NAME}{day.isoformat()}"
        tags = {_KIND: "monitoring", "dataset": self._dataset}
        ours = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        found = client.search_runs(
            [experiment], f"{ours} and tags.`mlflow.runName` = '{name}'", max_results=1,
            order_by=["attributes.start_time DESC"],
        )  # fmt: skip
        before, self._run = self._run, (found[0] if found else client.create_run(experiment, tags=tags, run_name=name))
        if found:
            client.update_run(self._run.info.run_id, status="RUNNING")
        self._day = day
        if before is not None:
            client.set_terminated(before.info.run_id)
        oldest = f"{_NAME}{(day - timedelta(days=self._days)).isoformat()}"
        for run in client.search_runs([experiment], ours, max_results=1000, order_by=["attributes.start_time ASC"]):
            if run.info.run_name.startswith(_NAME) and run.info.run_name < oldest:
                client.delete_run(run.info.run_id)

    def _send(self, client: Any, metrics: list[Any]) -> None:
        for first in range(0, len(metrics), self._per_request):
            client.log_batch(self._run.info.run_id, metrics[first : first + self._per_request])


class PointBuffer:
    """Points on their way to MLflow: nothing is lost while it is away, up to a bound."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._points: deque[Point] = deque(maxlen=limit)

    def __len__(self) -> int:
        return len(self._points)

    def add(self, figures: Figures, at: datetime | None = None) -> None:
        """Add the figures of a moment, by default of now."""
        self._points.append(Point(at or datetime.now(UTC), figures))

    def oldest(self, count: int) -> list[Point]:
        """Return the oldest points, at most ``count``; they stay."""
        return [self._points[i] for i in range(min(count, len(self._points)))]

    def drop(self, points: list[Point]) -> None:
        """Remove points that were written. Some may have been dropped meanwhile."""
        written = {id(point) for point in points}
        while self._points and id(self._points[0]) in written:
            self._points.popleft()
