"""What a comparison found: how each model did, who is champion, and what people must know of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from complex_system.evaluation.statistics import Evaluation, Squares
from complex_system.evaluation.verdict import copies_message, format_figure, intervals_message
from complex_system.protocol.explanation import ModelExplanation
from complex_system.protocol.labels import NO_SUSPECTS, SuspectTargets
from complex_system.protocol.scores import Basis, Challenge
from complex_system.protocol.training import (
    ChampionSummary,
    ComparedModel,
    ComparisonFinished,
    FoldCounts,
    StackMember,
    VerdictOnBaseline,
)
from complex_system.tracking.registry import ModelVersionRef
from complex_system.training.data import Matrix
from complex_system.training.split import NO_COPIES, Copies
from complex_system.training.targets import targets_message

if TYPE_CHECKING:
    from complex_system.evaluation.comparison import ComparisonRequest


@dataclass(frozen=True, kw_only=True)
class Result(Evaluation):
    """How a model did.

    Attributes:
        ref: The model; without a version as long as it is not registered.
        incumbent: It was the champion before this comparison.
        size: Bytes of its ONNX model; 0 where that is not known.
        overall: Squared errors on all hold-out records, where only the inputs have moved; the others are of the newer ones.
        members: What a stack is made of.
    """

    ref: ModelVersionRef
    incumbent: bool = False
    size: int = 0
    overall: Squares | None = None
    members: tuple[StackMember, ...] = ()

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.ref.model} {self.ref.version}".rstrip()

    def message(self, by: Basis, challenge: Challenge | None = None) -> ComparedModel:
        """Return the result as it is published, with the errors of the evaluation that decided."""
        ref, figures = self.ref, {**msgspec.structs.asdict(self.quality), "residuals": self.residuals(by)}
        return ComparedModel(
            trainer=ref.trainer,
            framework=ref.framework,
            model=ref.model,
            version=ref.version,
            challenge=challenge,
            members=self.members,
            **figures,
        )


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        round: Id of the training round.
        results: Best first, at least one.
        champion: One of them.
        best_new: The best of the new models, which is not among the results where it is the linear one and not champion.
        holdout: Number of hold-out samples.
        refused: Reason by ``model version`` of those that could not take part.
        baselines: How the mean and a linear model did, where they were asked for.
        ranked_by: What the new models are ranked by.
        challenges: How each new model did beside the previous champion, by label.
        verdicts: Whether the champion is better than each baseline.
        verdict: What people must know of the champion beside the baselines; empty where it is clearly better.
        replaced: Why the previous champion was not compared, where its split is another one, as a sentence.
        copies: Copies among the labelled records.
        split: What the records were divided by (``Dataset.split_rule``).
        split_by: The kind of it (``Split.by``).
        question: What the errors are measured for (``Split.question``).
        notes: What people must know of the split, as sentences.
        suspects: Labels that are probably wrong.
        explanation: What the winner depends on; None until it is told, and where it cannot be.
        candidate: The new model that would be champion, where a person decides; then the champion is the previous one, or the
            candidate itself where there is none.
        hold: Why a person decides, as a part of a sentence.
        truth: The targets of the hold-out samples, for the cards.
    """

    round: str
    results: tuple[Result, ...]
    champion: Result
    holdout: int
    best_new: Result | None = None
    refused: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, Evaluation] = field(default_factory=dict)
    ranked_by: Basis = "hold-out"
    challenges: dict[str, Challenge] = field(default_factory=dict)
    verdicts: dict[str, VerdictOnBaseline] = field(default_factory=dict)
    verdict: str = ""
    replaced: str = ""
    copies: Copies = NO_COPIES
    split: str = ""
    split_by: str = "key"
    question: str = ""
    notes: str = ""
    suspects: SuspectTargets = NO_SUSPECTS
    explanation: ModelExplanation | None = None
    candidate: Result | None = None
    hold: str = ""
    truth: Matrix | None = field(default=None, repr=False, compare=False)

    @property
    def winner(self) -> Result:
        """Who won: the candidate, the new champion, or the one that stays."""
        return self.candidate or self.champion

    @property
    def evidence(self) -> str:
        """What people must know of the comparison; empty for nothing."""
        parts = (self.verdict, self.replaced, self.notes, copies_message(self.copies), targets_message(self.suspects))
        return " ".join(part for part in parts if part)

    @property
    def intervals(self) -> str:
        """What the 95 % intervals are of, and where they cannot be trusted."""
        return intervals_message(self.champion, self.ranked_by, self.holdout, self.split_by)

    @property
    def is_change(self) -> bool:
        """Whether the champion is another one than before."""
        return self.candidate is None and not self.champion.incumbent

    @property
    def unbeaten(self) -> tuple[str, ...]:
        """The baselines that are at least as good as the champion."""
        return tuple(name for name, verdict in self.verdicts.items() if verdict.verdict == "not better")

    @property
    def folds(self) -> FoldCounts | None:
        """Size of the cross-validation; None where there was none."""
        cross = next((result.cross for result in self.results if result.cross and not result.incumbent), self.champion.cross)
        return FoldCounts(records=cross.records, folds=cross.folds, repeats=cross.repeats) if cross else None

    @property
    def kept(self) -> str:
        """Why the previous champion stays; empty for a new one."""
        if self.is_change:
            return ""
        stays = f"{self.champion.label} stays champion"
        if self.candidate is not None:
            before = f"{stays}: " if self.champion.incumbent else ""
            return f"{before}{self.candidate.label} won and is the candidate, because {self.hold}."
        best = self.best_new
        if best is None:
            return f"{stays}: no new model could be compared."
        found = self.challenges[best.label]
        if found.by == "hold-out" or best.cross is None:
            ours, theirs = format_figure(self.champion.quality.rmse), format_figure(best.quality.rmse)
            where = f"on the newest {self.holdout} hold-out records"
            compared = f"{stays} with RMSE {ours} {where}: the best new model, {best.label}, has {theirs}"
        else:
            sign = "lower" if found.better_by > 0 else "higher"
            compared = (
                f"{stays}: the best new model, {best.label}, has RMSE {format_figure(best.cross.rmse)} by cross-validation, {sign} by "
                f"{format_figure(abs(found.better_by))} on the {found.records} records that both were validated with"
            )
        if found.better_by <= 0:
            return f"{compared}."
        if found.outcome == "worse":
            return f"{compared}, but it is surely worse on all hold-out records, the older ones included."
        return (
            f"{compared}, which is not surely better (95 % interval of the difference {format_figure(found.low)} to "
            f"{format_figure(found.high)}; p = {found.p:.2g}, below {found.limit:.2g} is sure)."
        )

    def with_version(self, ref: ModelVersionRef) -> Comparison:
        """Return the comparison with the registered version of its winner, which had none."""
        winner = replace(self.winner, ref=ref)
        results = tuple(winner if each is self.winner else each for each in self.results)
        challenges = {winner.label if name == self.winner.label else name: each for name, each in self.challenges.items()}
        champion = winner if self.champion is self.winner else self.champion
        candidate = None if self.candidate is None else winner
        return replace(self, results=results, champion=champion, candidate=candidate, challenges=challenges)

    def message(self, request: ComparisonRequest, run_url: str = "") -> ComparisonFinished:
        """Return the comparison as it is published and kept, with the page of its run."""
        results = tuple(result.message(self.ranked_by, self.challenges.get(result.label)) for result in self.results)
        return ComparisonFinished(
            round=self.round,
            results=results,
            champion=self._summary(self.champion),
            candidate=None if self.candidate is None else self._summary(self.candidate),
            holdout=self.holdout,
            kept=self.kept,
            cause=request.cause,
            alerts=request.alert.alerts if request.alert else (),
            moved=request.alert.moved if request.alert else None,
            ranked_by=self.ranked_by,
            run_url=run_url,
            cross_validation=self.folds,
            baselines={name: baseline.quality for name, baseline in self.baselines.items()},
            verdicts=self.verdicts,
            verdict=self.evidence,
            records=self.copies.records,
            copies=self.copies.count,
            not_better_than=self.unbeaten,
            intervals=self.intervals,
            split=self.split,
            question=self.question,
            suspects=self.suspects,
            explanation=self.explanation,
            replaced=self.replaced,
        )

    def _summary(self, result: Result) -> ChampionSummary:
        return msgspec.convert(result.message(self.ranked_by), ChampionSummary, from_attributes=True)
