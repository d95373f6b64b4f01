"""What is known of a local run, and ``status.json``, which tells it to scripts."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from complex_system.evaluation.verdict import format_figure
from complex_system.local.quality import Crossed, Figures, Judgement

RunPhase = Literal["starting", "running", "done", "failed"]
READY_STATES = ("ready", "working")
_OF_ALERTS = ("key", "rule", "subject", "severity", "began", "sentence")


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


@dataclass
class Scores:
    """Errors in the target's unit."""

    rmse: float
    mae: float
    r2: float


@dataclass
class Training:
    """The newest training of one trainer."""

    trainer: str
    framework: str = ""
    round: str = ""
    stage: str = "waiting"
    step: int = 0
    steps: int = 0
    validation_rmse: float | None = None
    status: Literal["waiting", "training", "finished", "failed"] = "waiting"
    validation: Scores | None = None
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Result:
    """A model's scores on the hold-out set."""

    trainer: str
    framework: str
    model: str
    version: str
    rmse: float
    mae: float
    r2: float
    rmse_low: float | None = None
    rmse_high: float | None = None
    cv: Crossed | None = None

    @property
    def figures(self) -> Figures:
        """Its errors."""
        return Figures(self.rmse, self.mae, self.r2, self.rmse_low, self.rmse_high, self.cv)


@dataclass(frozen=True)
class Champion:
    """The model that is served."""

    model: str
    version: str
    framework: str
    rmse: float


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
    """A step of a scenario's demonstration.

    Attributes:
        step: What is waited for, for people.
        seconds: When it came, since the start of the run; None before.
        text: What was seen.
    """

    step: str
    seconds: float | None = None
    text: str = ""


@dataclass
class ScenarioState:
    """The demonstration of a scenario.

    Attributes:
        steps: In the order in which they are expected.
        rmse: Newest error of the champion in its window, in the target's unit.
        rmse_relative: It as a multiple of the champion's error on the hold-out set.
        psi_max: Largest stability index of a feature.
        pairs: Predictions with their truth behind the error.
    """

    name: str
    steps: list[ScenarioStep] = field(default_factory=list)
    rmse: float | None = None
    rmse_relative: float | None = None
    psi_max: float | None = None
    pairs: int = 0


@dataclass
class RunState:
    """Everything that the display and ``status.json`` show. One thread changes it, the event loop's.

    Attributes:
        recalled: The results are those of an earlier run.
    """

    deployment: str
    began: float = field(default_factory=time.monotonic)
    phase: RunPhase = "starting"
    stopping: bool = False
    infrastructure: dict[str, Process] = field(default_factory=dict)
    services: dict[str, Process] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("raw", "processed", "labelled", "rejected"), 0))
    counted: bool = False
    wanted_records: int = 0
    trainings: dict[str, Training] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    recalled: bool = False
    holdout: int = 0
    judgement: Judgement = field(default_factory=Judgement)
    champion: Champion | None = None
    prediction: Prediction | None = None
    scenario: ScenarioState | None = None
    alerts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Open alerts by key, as they were announced."""
    seconds_to_first_prediction: float | None = None
    on_note: list[Callable[[str], None]] = field(default_factory=list)
    changed: bool = True

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.began

    def note(self, text: str) -> None:
        """Tells everybody who shows the run that something happened."""
        self.changed = True
        for listener in self.on_note:
            listener(text)

    def error_of(self, champion: Champion) -> str:
        """The champion's error in words: by cross-validation where the models were ranked by that, else on the hold-out set."""
        for result in self.results:
            if (result.model, result.version) == (champion.model, champion.version) and result.cv is not None:
                return f"RMSE {format_figure(result.cv.rmse)} by cross-validation, {format_figure(champion.rmse)} on the hold-out set"
        return f"RMSE {format_figure(champion.rmse)}"

    def set_process(self, process: Process, state: str, detail: str = "") -> bool:
        """Notes a process's new state; says whether it is one."""
        if (process.state, process.detail) == (state, detail):
            return False
        if process.state != state:
            process.since = self.seconds
        process.state, process.detail = state, detail
        self.changed = True
        return True

    async def until(self, check: Callable[[], Any]) -> None:
        """Waits until ``check`` is true."""
        while not check():  # noqa: ASYNC110 - what is waited for comes from many sides, and ten looks a second cost nothing
            await asyncio.sleep(0.1)

    def as_status(self) -> dict[str, Any]:
        """The content of ``status.json``."""
        first = self.seconds_to_first_prediction
        return {
            "state": self.phase,
            "infrastructure": {p.name: {"url": p.url} for p in self.infrastructure.values()},
            "services": {p.name: _service_status(p) for p in self.services.values()},
            "records": dict(self.records),
            "results": [
                {name: getattr(r, name) for name in ("framework", "model", "version")} | r.figures.as_dict()
                for r in self.results
            ],
            "champion": asdict(self.champion) if self.champion else None,
            "seconds_to_first_prediction": round(first, 1) if first is not None else None,
            "alerts": [{name: a.get(name) for name in _OF_ALERTS} for a in self.alerts.values()],
            **({"scenario": asdict(self.scenario)} if self.scenario else {}),
            **self.judgement.as_dict(),
        }

    def write_status(self, path: Path) -> None:
        """Replaces the file in one step, so that a reader never sees half of it."""
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(json.dumps(self.as_status(), indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105 - the same, and says what matters
        self.changed = False


def _service_status(process: Process) -> dict[str, Any]:
    status: dict[str, Any] = {"state": process.state, "pid": process.pid, "restarts": process.restarts}
    if process.url:
        status["url"] = process.url
    return status
