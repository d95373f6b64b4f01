"""What is known of a local run, kept as the messages of the system say it, and ``status.json``, which tells it to scripts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from complex_system.protocol.base import Message, to_wire
from complex_system.protocol.database import RecordCounts
from complex_system.protocol.operations import Alert
from complex_system.protocol.serving import ORIGIN_LABELS
from complex_system.protocol.training import (
    ChampionChanged,
    ChampionSummary,
    ComparedModel,
    ComparisonFinished,
    TrainingFinished,
    TrainingProgress,
)

RunPhase = Literal["starting", "running", "done", "failed"]
Champion = ChampionSummary | ChampionChanged
"""The model that is served, as a comparison or the change of the alias announced it."""
READY_STATES = ("ready", "working")

_RESULT = ("framework", "model", "version", "rmse", "mae", "r2", "rmse_low", "rmse_high", "cv", "challenge")
_COMPARISON = ("ranked_by", "cross_validation", "baselines", "verdicts", "verdict", "split", "question")
_CHAMPION = ("model", "version", "framework", "rmse")
_ALERT = ("key", "rule", "subject", "severity", "began", "sentence")


@dataclass
class Process:
    """A server or a service of the run.

    Attributes:
        state: ``planned``, ``restarting``, ``stopped``, or what its heartbeat says.
        detail: What it waits for, or how it ended.
        since: When the state was reached, in seconds since the start of the run.
    """

    name: str
    state: str = "planned"
    detail: str = ""
    pid: int | None = None
    restarts: int = 0
    url: str = ""
    since: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether it does its work."""
        return self.state in READY_STATES


@dataclass(frozen=True)
class Prediction:
    """A REST prediction beside the truth, with the command that repeats it."""

    value: float
    truth: float | None
    model: str
    version: str
    milliseconds: float
    curl: tuple[str, ...]


@dataclass
class ScenarioStep:
    """A step of a scenario.

    Attributes:
        step: The event that is expected, as a person reads it.
        seconds: When it happened, since the start of the run; None before.
        text: What was seen.
    """

    step: str
    seconds: float | None = None
    text: str = ""


@dataclass
class ScenarioProgress:
    """How far a scenario is.

    Attributes:
        steps: In the order in which they are expected.
        rmse: Newest error of the champion in its window, in the target's unit.
        rmse_relative: The same as a multiple of the champion's error on the hold-out set.
        psi_max: Largest population stability index of a feature.
        evidence: Largest evidence that a feature has moved.
        pairs: Predictions with a known truth behind the error.
        origin: Whose requests these are of: ``live``, ``own`` or ``probe``.
    """

    name: str
    steps: list[ScenarioStep] = field(default_factory=list)
    rmse: float | None = None
    rmse_relative: float | None = None
    psi_max: float | None = None
    evidence: float | None = None
    pairs: int = 0
    origin: str = ""

    @property
    def basis(self) -> str:
        """The predictions behind the error, as people call them."""
        return f"{self.pairs:,} {ORIGIN_LABELS.get(self.origin, self.origin)}"


@dataclass
class RunState:
    """Everything that the display and ``status.json`` show. Only the event loop's thread changes it.

    Attributes:
        counted: Whether ``records`` were counted in this run.
        wanted_records: Records that the source makes at its start; 0 where only the source knows.
        trainings: The newest message of each trainer.
        comparison: The newest comparison.
        recalled: Whether that comparison is one of an earlier run.
        alerts: Open alerts by key.
        on_note: Called with every line of the run's log.
        changed: Whether something happened since ``status.json`` was written.
    """

    deployment: str
    began: float = field(default_factory=time.monotonic)
    phase: RunPhase = "starting"
    stopping: bool = False
    infrastructure: dict[str, Process] = field(default_factory=dict)
    services: dict[str, Process] = field(default_factory=dict)
    records: RecordCounts = RecordCounts(raw=0, processed=0, labelled=0, rejected=0)  # noqa: RUF009 - frozen
    counted: bool = False
    wanted_records: int = 0
    trainings: dict[str, TrainingProgress | TrainingFinished] = field(default_factory=dict)
    comparison: ComparisonFinished | None = None
    recalled: bool = False
    champion: Champion | None = None
    prediction: Prediction | None = None
    scenario: ScenarioProgress | None = None
    alerts: dict[str, Alert] = field(default_factory=dict)
    seconds_to_first_prediction: float | None = None
    on_note: list[Callable[[str], None]] = field(default_factory=list)
    changed: bool = True

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.began

    @property
    def results(self) -> tuple[ComparedModel, ...]:
        """The models of the newest comparison, best first."""
        return self.comparison.results if self.comparison else ()

    def note(self, text: str) -> None:
        """Pass a line of the log to everything that shows the run."""
        self.changed = True
        for listener in self.on_note:
            listener(text)

    def set_process(self, process: Process, state: str, detail: str = "") -> bool:
        """Set a process's state; return whether that is a new one."""
        if (process.state, process.detail) == (state, detail):
            return False
        if process.state != state:
            process.since = self.seconds
        process.state, process.detail = state, detail
        self.changed = True
        return True

    async def until(self, check: Callable[[], Any]) -> None:
        """Wait until ``check`` returns something true."""
        while not check():  # noqa: ASYNC110 - many events can make it true, and ten checks a second cost nothing
            await asyncio.sleep(0.1)

    def as_status(self) -> dict[str, Any]:
        """Return the content of ``status.json``."""
        first, comparison = self.seconds_to_first_prediction, self.comparison
        status: dict[str, Any] = {
            "state": self.phase,
            "infrastructure": {p.name: {"url": p.url} for p in self.infrastructure.values()},
            "services": {p.name: _service_status(p) for p in self.services.values()},
            "records": to_wire(self.records),
            "results": [_known(_fields(result, _RESULT)) for result in self.results],
            "champion": _fields(self.champion, _CHAMPION) if self.champion else None,
            "seconds_to_first_prediction": round(first, 1) if first is not None else None,
            "alerts": [_fields(alert, _ALERT) for alert in self.alerts.values()],
        }
        if self.scenario:
            status["scenario"] = asdict(self.scenario)
        if comparison:
            status |= {"holdout": comparison.holdout, "kept": comparison.kept, "intervals": comparison.intervals}
        if comparison and (comparison.baselines or comparison.cross_validation):
            status |= {name: _known(value) for name, value in _fields(comparison, _COMPARISON).items()}
        return status

    def write_status(self, path: Path) -> None:
        """Replace the file atomically, so that a reader never sees half of it."""
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(json.dumps(self.as_status(), indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
        self.changed = False


def _service_status(process: Process) -> dict[str, Any]:
    status: dict[str, Any] = {"state": process.state, "pid": process.pid, "restarts": process.restarts}
    if process.url:
        status["url"] = process.url
    return status


def _fields(message: Message, names: tuple[str, ...]) -> dict[str, Any]:
    wire = to_wire(message)
    return {name: wire[name] for name in names}


def _known(value: Any) -> Any:
    """Leave out what is not known."""
    if not isinstance(value, dict):
        return value
    return {name: _known(each) for name, each in value.items() if each is not None}
