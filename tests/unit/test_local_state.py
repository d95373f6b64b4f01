"""The state of a run: from the system's messages to status.json, the log and the live view."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import truth_of
from complex_system.local.cycle import RECOUNTED, Cycle
from complex_system.local.display import LogDisplay
from complex_system.local.live import LiveDisplay
from complex_system.local.plan import SOURCE, TRAINER_SERVICES, Plan, PlannedService
from complex_system.local.probe import curl_lines, sample_record
from complex_system.local.state import Prediction, Process, RunState, ScenarioProgress, ScenarioStep
from complex_system.local.watcher import Watcher, is_up
from complex_system.protocol.database import RecordCounts
from complex_system.protocol.operations import Alert, Heartbeat
from complex_system.protocol.promotion import KnownVersion, Promotion
from complex_system.protocol.scores import Scores
from complex_system.protocol.training import (
    ChampionSummary,
    ComparedModel,
    ComparisonFinished,
    FoldCounts,
    Quality,
    ScoresWithInterval,
    TrainingFinished,
    TrainingProgress,
    VerdictOnBaseline,
)
from complex_system.settings import Settings

NAMES = ("database_mongo", "ml_lightgbm_regression_mlflow", "ml_pytorch_regression_mlflow", "ml_serving_mlflow")


ALL = (
    "dummy_data_generation", "database_mongo", "data_processing", "ml_consumer", *TRAINER_SERVICES.values(), "ml_monitoring",
    "ml_serving", "ml_serving_mlflow",
)  # fmt: skip


class NoBroker:
    """The watcher's handlers need no broker; a test that asks one fails."""

    async def ask(self, *_: object) -> None:
        raise AssertionError


class Observed:
    """A run's state, its watcher, and its log."""

    def __init__(self, tmp_path: Path) -> None:
        services = tuple(PlannedService(name, name, {}) for name in NAMES)
        self.plan = Plan("here", tmp_path, (), (), services, Settings(), Dataset.load())
        self.state = RunState("here", services={name: Process(name, "starting", pid=i) for i, name in enumerate(NAMES)})
        self.state.wanted_records = 100
        self.logged: list[str] = []
        self.ready: list[str] = []
        self.state.on_note.append(self.logged.append)
        self.watcher = Watcher(self.plan, self.state, NoBroker(), self.ready.append)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Observed:
    return Observed(tmp_path)


def beat(service: str, pid: int, state: str, **more: str) -> Heartbeat:
    return msgspec.convert({"service": service, "pid": pid, "state": state, **more}, Heartbeat)


def finished(trainer: str) -> TrainingFinished:
    scores = Scores(rmse=14.5, mae=12.3, r2=0.97)
    return TrainingFinished(trainer=trainer, framework=trainer, round="1", status="finished", seconds=3.0, validation=scores)


COMPARISON = ComparisonFinished(
    round="1",
    holdout=700,
    results=(
        ComparedModel(
            trainer="lightgbm", framework="lightgbm", model="lab-lightgbm", version="1", rmse=14.4, mae=12.1, r2=0.98
        ),
        ComparedModel(
            trainer="pytorch", framework="pytorch", model="lab-pytorch", version="2", rmse=14.9, mae=12.5, r2=0.97
        ),
    ),
    champion=ChampionSummary(model="lab-lightgbm", version="1", framework="lightgbm", trainer="lightgbm", rmse=14.4),
)


async def test_a_heartbeat_makes_a_service_ready_and_names_its_address(run: Observed) -> None:
    await run.watcher.heartbeat(beat("ml_serving_mlflow", 3, "ready", url="http://127.0.0.1:1"))
    process = run.state.services["ml_serving_mlflow"]
    assert (process.state, process.url, run.ready) == ("ready", "http://127.0.0.1:1", ["ml_serving_mlflow"])
    assert run.logged == ["ml_serving_mlflow: ready"]


async def test_a_heartbeat_of_another_process_is_ignored(run: Observed) -> None:
    await run.watcher.heartbeat(beat("database_mongo", 999, "ready"))
    await run.watcher.heartbeat(beat("not_of_this_run", 0, "ready"))
    assert run.state.services["database_mongo"].state == "starting"
    assert run.logged == []


async def test_only_changes_are_logged(run: Observed) -> None:
    for _ in range(3):
        await run.watcher.heartbeat(beat("database_mongo", 0, "waiting", detail="MongoDB at h:1: refused"))
    assert run.logged == ["database_mongo: waiting, MongoDB at h:1: refused"]


async def test_the_run_says_what_became_of_the_records_of_a_file_whenever_it_was_read(run: Observed) -> None:
    run.state.services[SOURCE] = Process(SOURCE, "starting", pid=9)
    details = {
        "400 of 400 records saved": ("waiting", "working", "ready"),
        "403 of 403 records saved: 3 new, 397 known, 2 filled, 1 differs and is not taken: B-0007": ("working", "ready"),
        "403 of 403 records saved; the file has changed and is not read again, because its rows have no keys": (
            "working",
            "ready",
        ),
    }
    for detail, states in details.items():
        for state in states:
            await run.watcher.heartbeat(beat(SOURCE, 9, state, detail=detail if state == "ready" else "reading"))
    assert [line for line in run.logged if "ready" in line] == [f"{SOURCE}: ready, {detail}" for detail in details]


def test_a_serving_service_without_a_model_is_up() -> None:
    assert is_up("waiting", "no model yet: no champion")
    assert not is_up("waiting", "MongoDB at h:1: refused")


async def test_a_training_is_followed_from_its_first_step_to_its_scores(run: Observed) -> None:
    step = TrainingProgress(trainer="lightgbm", framework="lightgbm", round="1", stage="training", step=5, steps=10)
    await run.watcher.progress(replace(step, validation_rmse=20.0))
    await run.watcher.progress(replace(step, stage="logging"))
    assert run.state.trainings["lightgbm"] == replace(step, stage="logging", validation_rmse=20.0)
    await run.watcher.trained(finished("lightgbm"))
    assert run.state.trainings["lightgbm"] == finished("lightgbm")
    assert run.logged[0] == "lightgbm: training begins"
    assert run.logged[-1] == "lightgbm: trained in 3.0 s; validation RMSE 14.50, MAE 12.30, R2 0.9700"


async def test_the_next_round_begins_anew(run: Observed) -> None:
    await run.watcher.trained(finished("lightgbm"))
    await run.watcher.progress(TrainingProgress(trainer="lightgbm", framework="lightgbm", round="2", stage="fetching"))
    assert isinstance(run.state.trainings["lightgbm"], TrainingProgress)
    assert run.logged[-1] == "lightgbm: training begins"


async def test_a_comparison_is_kept_in_its_order_with_its_champion(run: Observed) -> None:
    await run.watcher.compared(COMPARISON)
    assert [result.trainer for result in run.state.results] == ["lightgbm", "pytorch"]
    assert run.state.champion == COMPARISON.champion
    assert run.logged[-1] == "champion: lab-lightgbm version 1 (lightgbm), RMSE 14.40 on the hold-out set"


async def test_the_first_winner_is_no_champion_where_a_person_decides(run: Observed) -> None:
    await run.watcher.compared(replace(COMPARISON, candidate=COMPARISON.champion))
    assert run.state.champion is None
    assert not any(line.startswith("champion:") for line in run.logged)


LAB_1 = KnownVersion(model="lab-lightgbm", version="1", framework="lightgbm", rmse=14.4)
LAB_2 = KnownVersion(model="lab-pytorch", version="2", framework="pytorch", rmse=14.9)


@pytest.mark.parametrize(
    ("candidate", "now", "note", "champion"),
    [
        (None, Promotion(champion=LAB_1), "an earlier run has a champion already", "lab-lightgbm"),
        (LAB_1, Promotion(candidate=LAB_1), "an earlier run has a candidate, lab-lightgbm 1, but no champion yet", None),
        (LAB_1, Promotion(champion=LAB_1), "an earlier run has a champion already", "lab-lightgbm"),  # approved since
        (None, Promotion(champion=LAB_2), "an earlier run has a champion already", "lab-pytorch"),  # rolled back since
        (None, Promotion(), "an earlier run has compared models, but there is no champion", None),  # by hand
    ],
)
async def test_a_comparison_of_an_earlier_run_is_told_by_who_is_champion_now(
    run: Observed, candidate: KnownVersion | None, now: Promotion, note: str, champion: str | None
) -> None:
    await run.watcher.recalled(replace(COMPARISON, candidate=COMPARISON.champion if candidate else None), now)
    assert run.logged[0] == note
    assert run.state.recalled
    assert (run.state.champion and run.state.champion.model) == champion
    assert any(line.startswith("champion:") for line in run.logged) == (champion is not None)


FEW = replace(
    COMPARISON,
    ranked_by="cross-validation",
    cross_validation=FoldCounts(records=51, folds=5, repeats=2),
    results=tuple(
        replace(
            row,
            rmse_low=13.0,
            rmse_high=16.0,
            cv=ScoresWithInterval(rmse=cv, mae=9.0, r2=0.6, rmse_low=cv - 2, rmse_high=cv + 2),
        )
        for row, cv in zip(COMPARISON.results, (0.0412, 15.5), strict=True)
    ),
    baselines={"mean": Quality(rmse=20.0, mae=15.0, r2=-0.01, rmse_low=18.0, rmse_high=22.0)},
    verdicts={"mean": VerdictOnBaseline(verdict="unclear", better_by=1.0, low=-1.0, high=3.0)},
    verdict="It cannot be logged whether lab-lightgbm 1 is better than predicting the mean: it has RMSE 0.0412, the mean 20.00 (..).",
)


async def test_few_records_are_shown_with_folds_intervals_baselines_and_the_verdict(run: Observed) -> None:
    await run.watcher.compared(FEW)
    logged = "\n".join(run.logged)
    assert "comparison by cross-validation of 51 records (5 folds, 2 times), beside 700 hold-out records:" in logged
    assert "2. pytorch        RMSE  15.50 (13.50 to 17.50)" in logged
    assert "hold-out RMSE 14.90 (13.00 to 16.00)  (lab-pytorch version 2)" in logged
    assert "-  mean           hold-out RMSE  20.00 (18.00 to 22.00)" in logged
    assert FEW.verdict in run.logged
    assert run.logged[-1].endswith("RMSE 0.0412 by cross-validation, 14.40 on the hold-out set")
    status = run.state.as_status()
    assert status["results"][1] == {
        "framework": "pytorch", "model": "lab-pytorch", "version": "2", "rmse": 14.9, "mae": 12.5, "r2": 0.97,
        "rmse_low": 13.0, "rmse_high": 16.0, "cv": {"rmse": 15.5, "mae": 9.0, "r2": 0.6, "rmse_low": 13.5, "rmse_high": 17.5},
    }  # fmt: skip
    assert {name: status[name] for name in ("ranked_by", "cross_validation", "baselines", "verdicts", "verdict")} == {
        "ranked_by": "cross-validation",
        "cross_validation": {"records": 51, "folds": 5, "repeats": 2},
        "baselines": {"mean": {"rmse": 20.0, "mae": 15.0, "r2": -0.01, "rmse_low": 18.0, "rmse_high": 22.0}},
        "verdicts": {"mean": {"verdict": "unclear", "better_by": 1.0, "low": -1.0, "high": 3.0}},
        "verdict": FEW.verdict,
    }
    for width, height in ((80, 24), (140, 60)):
        lines = view(run.plan, run.state, width, height)
        assert all(len(line.rstrip()) <= width for line in lines)
        for words in ("0.0412 ±2.00", "15.50 ±2.00", "baseline", "It cannot be logged whether lab-lightgbm 1"):
            assert any(words in line for line in lines), words


def test_status_json_has_what_scripts_are_promised(run: Observed, tmp_path: Path) -> None:
    state = run.state
    state.phase = "running"
    state.infrastructure["nats"] = Process("nats", "ready", url="nats://127.0.0.1:1")
    state.services = {"ml_serving_mlflow": Process("ml_serving_mlflow", "ready", pid=7, url="http://127.0.0.1:2")}
    state.comparison = replace(COMPARISON, results=COMPARISON.results[:1], intervals="95 % intervals are over 740 records.")
    state.champion = COMPARISON.champion
    state.seconds_to_first_prediction = 61.234
    state.write_status(tmp_path / "status.json")
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "state": "running",
        "infrastructure": {"nats": {"url": "nats://127.0.0.1:1"}},
        "services": {"ml_serving_mlflow": {"state": "ready", "pid": 7, "restarts": 0, "url": "http://127.0.0.1:2"}},
        "records": {"raw": 0, "processed": 0, "labelled": 0, "rejected": 0, "conflicts": 0, "corrected": 0},
        "results": [
            {"framework": "lightgbm", "model": "lab-lightgbm", "version": "1", "rmse": 14.4, "mae": 12.1, "r2": 0.98}
        ],
        "champion": {"model": "lab-lightgbm", "version": "1", "framework": "lightgbm", "rmse": 14.4},
        "seconds_to_first_prediction": 61.2,
        "alerts": [],
        "holdout": COMPARISON.holdout,
        "kept": "",
        "intervals": "95 % intervals are over 740 records.",
    }
    assert [path.name for path in tmp_path.iterdir() if "status" in path.name] == ["status.json"]


def test_the_log_has_one_line_an_event(run: Observed, capsys: pytest.CaptureFixture[str]) -> None:
    display = LogDisplay(run.state)
    display.note("nats: ready")
    run.state.records = RecordCounts(raw=40, processed=30, labelled=20, rejected=1)
    display.refresh()
    display.refresh()
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(" s  nats: ready")
    assert second.endswith(" s  records: 40 saved, 30 processed, 20 labelled, 1 rejected")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 60)])
async def test_the_live_view_shows_models_champion_and_prediction(run: Observed, width: int, height: int) -> None:
    await run.watcher.compared(COMPARISON)
    command = curl_lines("http://127.0.0.1:2/predict", {"material_id": "00000000"})
    run.state.prediction = Prediction(100.0, 101.5, "lab-lightgbm", "1", 2.0, command)
    run.state.services["ml_serving_mlflow"].url = "http://127.0.0.1:2"
    lines = view(run.plan, run.state, width, height)
    champion = next(line for line in lines if "champion" in line)
    assert champion.split()[0] == "lightgbm"
    assert any("best possible" in line and "14.22" in line for line in lines)
    assert any("prediction 100.00   truth 101.50" in line for line in lines)
    assert any(line.strip().startswith("curl -s http://127.0.0.1:2/predict") for line in lines)
    assert any("http://127.0.0.1:2/docs" in line for line in lines)


async def test_the_whole_view_fits_on_the_smallest_terminal() -> None:
    dataset = Dataset.load()
    services = tuple(PlannedService(name, name, {}) for name in ALL)
    plan = Plan("mongo", Path("/home/somebody/complex-system/.run/mongo"), (), (), services, Settings(), dataset)
    state = RunState("mongo", services={name: Process(name, "ready") for name in ALL})
    for name in ("ml_monitoring", "ml_serving", "ml_serving_mlflow"):
        state.services[name].url = "http://127.0.0.1:8001"
    state.infrastructure = {name: Process(name, "ready", url="http://127.0.0.1:1") for name in ("nats", "mongodb", "mlflow")}
    results = tuple(replace(COMPARISON.results[0], trainer=name, model=f"lab-{name}") for name in plan.trainers)
    state.comparison = replace(COMPARISON, results=results)
    state.champion = COMPARISON.champion
    command = curl_lines("http://127.0.0.1:2/predict", sample_record(dataset, 1))
    state.prediction = Prediction(1.0, 1.5, "lab-lightgbm", "1", 2.0, command)
    lines = view(plan, state, 80, 24, "an event")
    assert len(lines) < 24
    for shown in ("lightgbm", "best possible", "prediction 1.00", "MLflow", "ml_monitoring", "logs, state"):
        assert any(shown in line for line in lines), shown


async def test_the_view_of_few_records_with_a_long_command_fits_on_the_smallest_terminal(run: Observed) -> None:
    await run.watcher.compared(FEW)
    run.state.prediction = Prediction(1.0, 1.5, "lab-lightgbm", "1", 2.0, ("curl", *["  a line"] * 20))
    lines = view(run.plan, run.state, 80, 24)
    assert len(lines) < 24
    assert any("the command that repeats it is in logs/runner.log" in line for line in lines)
    assert any("prediction 1.00   truth 1.50" in line for line in lines)


async def test_the_live_view_shows_a_scenarios_steps_and_the_open_alerts(run: Observed) -> None:
    await run.watcher.compared(replace(COMPARISON, kept="lab-lightgbm 1 stays champion."))
    alert = Alert(
        key="k", severity="critical", rule="error", metric="performance/rmse", subject="", retrain=True, since=0.0, began=1.0,
        value=3.0, newest=3.0, threshold=1.0, sentence="It is all wrong.",
    )  # fmt: skip
    await run.watcher.alerted(alert)
    steps = [ScenarioStep("scenario begins", 61.0, "shift"), ScenarioStep("drift seen")]
    run.state.scenario = ScenarioProgress(
        "shift", steps, rmse=33.7, rmse_relative=2.31, psi_max=0.4, evidence=7.2, pairs=300, origin="probe"
    )
    text = "\n".join(view(run.plan, run.state, 140, 60))
    assert "scenario shift   RMSE 33.70 on 300 probes   2.31 x hold-out   evidence of drift 7.2" in text
    assert "61 s  ● scenario begins  shift" in text
    assert "○ drift seen" in text
    assert "critical It is all wrong." in text
    status = run.state.as_status()
    assert status["scenario"]["steps"][0] == {"step": "scenario begins", "seconds": 61.0, "text": "shift"}
    assert [each["sentence"] for each in status["alerts"]] == ["It is all wrong."]
    await run.watcher.alert_ended(replace(alert, over="It is right again."))
    assert "critical It is all wrong." not in "\n".join(view(run.plan, run.state, 140, 60))
    assert run.state.as_status()["alerts"] == []


def view(plan: Plan, state: RunState, width: int, height: int, *notes: str) -> list[str]:
    """Return the lines of the live view on a terminal of that size."""
    display = LiveDisplay(
        plan, state, Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    )
    for note in notes:
        display.note(note)
    out = Console(file=io.StringIO(), width=width, color_system=None)
    with out.capture() as capture:
        out.print(display.view())
    display.close()
    return capture.get().splitlines()


def test_the_shown_command_works_in_a_shell(tmp_path: Path) -> None:
    record = {
        "_id": "it's",
        "material_id": "00000000",
        "rohwert_1_labormessung": 1.25,
        "laborant": 'a "b" $HOME',
        "Größe [µm]": "Süd",
    }
    script = "\n".join(curl_lines("http://127.0.0.1:9/predict", record))
    # A stand-in for curl shows what a shell makes of the line.
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\nfor last; do :; done\nprintf "%s\\n%s" "$2" "$last"\n')
    curl.chmod(0o755)
    said = subprocess.run(
        ["bash", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    url, body = said.stdout.split("\n", 1)
    assert url == "http://127.0.0.1:9/predict"
    assert json.loads(body) == {"records": [record]}
    assert '"Größe [µm]": "Süd"' in script


def test_the_lines_of_the_command_fit_a_terminal() -> None:
    record = sample_record(Dataset.load(), 1)
    assert max(len(line) for line in curl_lines("http://127.0.0.1:65000/predict", record)) <= 78


def test_the_probe_is_a_complete_record_whose_truth_is_known() -> None:
    record = sample_record(Dataset.load(), 1)
    assert truth_of(record) is not None
    assert record["aufbereiteter_wert"] is None
    assert record == sample_record(Dataset.load(), 1)


def test_of_a_file_the_source_knows_how_many_records_there_are(tmp_path: Path) -> None:
    names = ("database_mongo", "dummy_data_generation", "data_processing")
    services = tuple(PlannedService(name, name, {}) for name in names)
    settings = Settings().copy(update={"source_file": "measurements.csv"})
    plan = Plan("here", tmp_path, (), (), services, settings, Dataset.load())
    state = RunState("here", services={name: Process(name, "starting", pid=i) for i, name in enumerate(names)})
    source = state.services["dummy_data_generation"]
    steps = {step.title: step.missing for step in Cycle(plan, state, NoBroker, strict=True).steps()}  # type: ignore[arg-type]
    saved, processed = steps["records saved"], steps["records processed"]
    assert saved() == ("not started", "dummy_data_generation")
    state.set_process(source, "working", "120 of 500 records saved")
    state.records = RecordCounts(raw=120, processed=0, labelled=0, rejected=0)
    assert saved() == ("120 of 500 records saved", "dummy_data_generation")
    state.set_process(source, "ready", "497 of 500 records saved, 3 refused")
    assert saved()[0]  # the numbers may be those from before
    state.began -= 2 * RECOUNTED
    state.records = RecordCounts(raw=497, processed=400, labelled=0, rejected=90)
    assert saved() == ("", "")
    assert processed() == ("490 of 497 processed or rejected", "data_processing")
    state.records = replace(state.records, processed=407)
    assert processed() == ("", "")
