"""Training rounds, from the request to the trainers to the new champion."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from complex_system.protocol.base import Empty, Event, Message, Request
from complex_system.protocol.explanation import ModelExplanation
from complex_system.protocol.labels import NO_SUSPECTS, SuspectTargets
from complex_system.protocol.scores import Basis, Challenge, CrossValidation, Residuals, Scores

Cause = Literal["first", "growth", "alert", "schedule"]
"""Why a round was started: enough data for a first model, enough new data, an alert, or a trainer's own schedule."""


Moved = Literal["error", "input"]
"""What an alert says has moved: the error, because the process follows another law now, or only the inputs."""

Verdict = Literal["better", "unclear", "not better"]
"""Whether a champion is better than a baseline; ``unclear`` where the interval of the difference holds 0."""


class TrainRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Asks trainers for a training.

    Attributes:
        round: Id of the round, 1 to 100 characters; None lets the trainer choose one.
        trainers: Names of the trainers that shall train; None for all.
        since: Train only on labelled records whose time is later, seconds since 1970 (UTC); None for all.
        after: Train only on labelled records with larger keys, as earlier releases ask for it; None for all.
    """

    round: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    trainers: list[str] | None = None
    since: float | None = None
    after: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class TrainReply(Message, frozen=True, kw_only=True):
    """A trainer's answer to the request; the training itself goes on after it.

    Attributes:
        trainer: Name of the trainer.
        accepted: Whether it trains.
        round: Id of the round; that of the training under way where it is busy.
        reason: ``busy`` or ``not asked``; None where it accepts.
    """

    trainer: str
    accepted: bool
    round: str
    reason: str | None = None


class TrainingProgress(Message, frozen=True, kw_only=True):
    """How far a training is, at most five times a second.

    Attributes:
        trainer: Name of the trainer.
        framework: ``lightgbm``, ``pytorch`` or ``tensorflow``.
        round: Id of the round.
        stage: ``fetching``, ``searching``, ``training``, ``cross-validating`` or ``logging``.
        step: Epoch, boosting round or fold that is done; 0 before the first.
        steps: Steps at most.
        train_rmse: Error on the training part, in the target's unit; None where it is not known.
        validation_rmse: Error on the validation part.
    """

    trainer: str
    framework: str
    round: str
    stage: str
    step: int = 0
    steps: int = 0
    train_rmse: float | None = None
    validation_rmse: float | None = None


class TrainingFinished(Message, frozen=True, kw_only=True):
    """The end of a training.

    Attributes:
        trainer: Name of the trainer.
        framework: ``lightgbm``, ``pytorch`` or ``tensorflow``.
        round: Id of the round.
        status: Whether there is a model.
        seconds: Duration of everything, from the request on.
        model: Registered name; empty where it failed, as the fields below.
        version: Registered version.
        run_id: Run of the tracking server.
        run_url: Page of the run.
        validation: Scores on the validation part.
        samples: Number of samples by part.
        cross_validation: None where the records are too many for it.
        timings: Seconds by stage.
        error: Why it failed; empty where it finished.
    """

    trainer: str
    framework: str
    round: str
    status: Literal["finished", "failed"]
    seconds: float = 0.0
    model: str = ""
    version: str = ""
    run_id: str = ""
    run_url: str = ""
    validation: Scores | None = None
    samples: dict[str, int] = {}
    cross_validation: CrossValidation | None = None
    timings: dict[str, float] = {}
    error: str = ""


class TrainingRound(Message, frozen=True, kw_only=True):
    """A round that has begun, or that ended without a model.

    Attributes:
        round: Id of the round.
        stage: What happened.
        cause: Why the round was started.
        alerts: Keys of the alerts that it is for.
        since: Only records whose time is later are used, seconds since 1970 (UTC); None for all.
        moved: What has moved, where alerts are the cause; None for another cause, and from an earlier release.
        after: Only records with larger keys are used, in rounds of earlier releases; None for all.
        labelled: Labelled records at the start.
        text: What the alerts say, or why the round failed.
    """

    round: str
    stage: Literal["started", "failed"]
    cause: Cause
    alerts: tuple[str, ...] = ()
    since: float | None = None
    moved: Moved | None = None
    after: str | None = None
    labelled: int | None = None
    text: str = ""


class ScoresWithInterval(Scores, frozen=True, kw_only=True):
    """Scores with the 95 % confidence interval of the RMSE.

    Attributes:
        rmse_low: Lower end; None where it cannot be told.
        rmse_high: Upper end.
    """

    rmse_low: float | None = None
    rmse_high: float | None = None


class Quality(ScoresWithInterval, frozen=True, kw_only=True):
    """How a model or a baseline did on the hold-out part.

    Attributes:
        cv: The same by cross-validation; None where the records are too many for it.
    """

    cv: ScoresWithInterval | None = None


class StackMember(Message, frozen=True, kw_only=True):
    """A model that a stack is made of.

    Attributes:
        model: Registered name.
        version: Registered version; empty for a model that is a part of the stack only.
        weight: Above 0; those of all members add up to 1.
    """

    model: str
    version: str
    weight: float


class ComparedModel(Quality, frozen=True, kw_only=True):
    """How a model did in a comparison.

    Attributes:
        trainer: Name of its trainer.
        framework: Its framework.
        model: Registered name.
        version: Registered version.
        residuals: Its errors in the evaluation that decided; None in comparisons of an earlier release.
        challenge: How it did beside the previous champion; None for that itself, and where there was none.
        members: What a stack is made of; empty for another model.
    """

    trainer: str
    framework: str
    model: str
    version: str
    residuals: Residuals | None = None
    challenge: Challenge | None = None
    members: tuple[StackMember, ...] = ()


class ChampionSummary(Message, frozen=True, kw_only=True):
    """The model with the alias ``champion``, or with the alias ``candidate``.

    Attributes:
        model: Registered name.
        version: Registered version.
        framework: Its framework.
        trainer: Name of its trainer.
        rmse: On the hold-out part, in the target's unit.
    """

    model: str
    version: str
    framework: str
    trainer: str = ""
    rmse: float


class FoldCounts(Message, frozen=True, kw_only=True):
    """Size of a cross-validation.

    Attributes:
        records: Records that were divided into folds.
        folds: Folds of one repeat.
        repeats: How often they were divided, each time differently.
    """

    records: int
    folds: int
    repeats: int


class VerdictOnBaseline(Message, frozen=True, kw_only=True):
    """Whether the champion is better than a baseline.

    Attributes:
        verdict: ``not better`` where the champion's RMSE is not lower, ``better`` where the interval lies above 0.
        better_by: RMSE of the baseline less the champion's on the same records, in the target's unit.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
    """

    verdict: Verdict
    better_by: float
    low: float
    high: float


class ComparisonFinished(Message, frozen=True, kw_only=True):
    """The comparison of the models of a round, as it is published and kept in MLflow.

    Attributes:
        round: Id of the round.
        results: The models, best first.
        champion: The previous one, or the new model that is surely better or cheaper; the best one where there was none.
        candidate: The new model that would be champion, where a person decides: then ``champion`` is the previous one, or this one
            where there is none. None in all other cases.
        holdout: Number of hold-out records.
        kept: Why the previous champion stays; empty for a new one.
        cause: Why the round was started.
        alerts: Keys of the alerts that it was for.
        moved: What had moved, where alerts were the cause; None for another cause, and from an earlier release.
        ranked_by: What decided.
        run_url: Page of the comparison's run.
        cross_validation: None where models were not cross-validated.
        baselines: How each baseline did.
        verdicts: The champion beside each baseline.
        verdict: What must be known of the champion beside the baselines, and of copies among the records, as sentences; empty where it
            is better than all and there are hardly any copies.
        records: Labelled records behind the comparison.
        copies: Those of them whose features and target are those of an earlier one.
        not_better_than: Baselines that are at least as good as the champion.
        split: What the records were divided by, such as ``group: batch``.
        question: What the errors are measured for: it completes "The error is that for ...".
        replaced: Why the previous champion was not compared, as a sentence; empty where it was, or where there was none.
        suspects: Labels that are probably wrong.
        intervals: What the 95 % intervals are of, and where they cannot be trusted, as sentences.
        explanation: What the new champion or candidate, or the champion that stays, depends on; None where it could not be told, and
            from an earlier release.
    """

    round: str
    results: tuple[ComparedModel, ...]
    champion: ChampionSummary
    holdout: int
    candidate: ChampionSummary | None = None
    kept: str = ""
    cause: Cause = "growth"
    alerts: tuple[str, ...] = ()
    moved: Moved | None = None
    ranked_by: Basis = "hold-out"
    run_url: str = ""
    cross_validation: FoldCounts | None = None
    baselines: dict[str, Quality] = {}
    verdicts: dict[str, VerdictOnBaseline] = {}
    verdict: str = ""
    records: int = 0
    copies: int = 0
    not_better_than: tuple[str, ...] = ()
    split: str = ""
    question: str = ""
    replaced: str = ""
    suspects: SuspectTargets = NO_SUSPECTS
    intervals: str = ""
    explanation: ModelExplanation | None = None

    @property
    def answers(self) -> str:
        """What the errors are measured for, as a sentence; empty in a comparison of an earlier release."""
        return f"The error is that for {self.question}." if self.question else ""


class ChampionChanged(Message, frozen=True, kw_only=True):
    """Another model has the alias ``champion``.

    Attributes:
        model: Registered name.
        version: Registered version.
        framework: Its framework.
        rmse: On the hold-out part, in the target's unit.
        holdout: Number of these records; 0 from an earlier release.
        pipeline_version: Pipeline version that it was trained for.
        cause: Why the round was started.
        decided: Whose decision it was, such as ``approve by anna``; empty for a round's.
    """

    model: str
    version: str
    framework: str
    rmse: float
    holdout: int = 0
    pipeline_version: str = ""
    cause: Cause = "growth"
    decided: str = ""


TRAIN_MODEL = Request("train-model", TrainRequest, TrainReply, "Start a training, or say why not; every trainer answers.")
TRAINING_PROGRESS = Event("training-progress", TrainingProgress)
TRAINING_FINISHED = Event("training-finished", TrainingFinished)
TRAINING_ROUND = Event("training-round", TrainingRound)
COMPARISON_FINISHED = Event("comparison-finished", ComparisonFinished)
GET_COMPARISON: Request[Empty, ComparisonFinished | None] = Request(
    "get-comparison",
    Empty,
    ComparisonFinished | None,
    "Return the newest comparison, also one from before a restart; null before the first.",
)
CHAMPION_CHANGED = Event("champion-changed", ChampionChanged)
