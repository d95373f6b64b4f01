"""Decisions of people about the champion: carried out in the registry, kept in its tags and in the database."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import KW_ONLY, dataclass, field
from functools import partial

import msgspec

from complex_system.domain.documents import Document
from complex_system.errors import ComplexSystemError, InvalidRequestError, ModelRefusedError
from complex_system.messaging.clients import DocumentClient
from complex_system.protocol.base import to_wire
from complex_system.protocol.promotion import ChampionDecision, ChampionRequest, KnownVersion, Mode, Promotion
from complex_system.protocol.training import ChampionChanged
from complex_system.service_layer.rounds.champion import RunBlocking
from complex_system.tracking.promotion import (
    APPROVED,
    HOLDOUT_RECORDS,
    HOLDOUT_RMSE,
    PINNED,
    RESTORED,
    ROLLED_BACK,
    UNPINNED,
    PromotionRegistry,
    decision_in,
)
from complex_system.tracking.registry import ModelVersionRef

log = logging.getLogger(__name__)

DECISIONS = "decision"
"""Kind of the documents: body as :class:`ChampionDecision`. They are few, and kept without a limit."""
SHOWN = 50
"""Decisions that are shown, the newest."""
_AHEAD = 86_400.0
"""Seconds by which the clock of an earlier decision may have been ahead."""


@dataclass
class ChampionDecisions:
    """Carries out one decision at a time. The registry is what counts: the database may be away, and gets the decision later.

    Attributes:
        registry: Has the aliases.
        documents: The database.
        run_blocking: Runs calls to MLflow.
        mode: How the winner of a round becomes champion.
    """

    registry: PromotionRegistry
    documents: DocumentClient
    run_blocking: RunBlocking
    _: KW_ONLY
    mode: Mode = "automatic"
    _unsaved: deque[Document] = field(default_factory=lambda: deque(maxlen=SHOWN), init=False)
    _known: list[ChampionDecision] = field(default_factory=list, init=False)

    async def carry_out(self, asked: ChampionRequest) -> tuple[Promotion, ChampionChanged | None]:
        """Carry out a decision; return the state after it, and what to announce of a new champion.

        Raises:
            InvalidRequestError: It cannot be done; the message says why.
            UnknownModelError, ModelRefusedError: There is no such version, or none that could be served.
            TrackingUnavailableError: MLflow does not answer. The same request may be sent again.
        """
        decision, message, crowned = await self.run_blocking(partial(self._carry_out, asked))
        log.warning("%s (%s, %s): %s", decision.action, decision.who, decision.why, message)
        key = f"{int(decision.at * 1000)}-{decision.action}"
        self._unsaved.append(Document(DECISIONS, key, decision.at, to_wire(decision)))
        changed = None
        if crowned is not None and (rmse := _number(crowned, HOLDOUT_RMSE)) is not None:
            changed = ChampionChanged(
                model=crowned.model, version=crowned.version, framework=crowned.framework, rmse=rmse,
                holdout=int(_number(crowned, HOLDOUT_RECORDS) or 0), pipeline_version=crowned.pipeline_version,
                decided=f"{decision.action} by {decision.who}",
            )  # fmt: skip
        return msgspec.structs.replace(await self.state(), message=message), changed

    async def state(self) -> Promotion:
        """Return champion, candidate, pin and decisions; without the newest decisions where the database is away."""
        await self.save()
        try:
            found = await self.documents.between(DECISIONS, 0.0, time.time() + _AHEAD, newest_first=True, most=SHOWN)
            self._known = [msgspec.convert(each.body, ChampionDecision) for each in found]
        except (ComplexSystemError, msgspec.ValidationError) as error:
            log.warning("The decisions about the champion cannot be read: %s", error)
        unsaved = [msgspec.convert(each.body, ChampionDecision) for each in reversed(self._unsaved)]
        decisions = tuple([*unsaved, *self._known][:SHOWN])
        return await self.run_blocking(partial(self._state, decisions))

    async def save(self) -> None:
        """Write the decisions that the database does not have yet; what it does not take now is written with the next call."""
        waiting = list(self._unsaved)
        try:
            await self.documents.save(waiting)
        except ComplexSystemError as error:
            log.warning("%d decision(s) about the champion wait for the database: %s", len(waiting), error.message)
        else:  # what came meanwhile is not written yet
            self._unsaved = deque((each for each in self._unsaved if each not in waiting), maxlen=SHOWN)

    def _state(self, decisions: tuple[ChampionDecision, ...]) -> Promotion:
        champion = self.registry.champion()
        return Promotion(
            mode=self.mode,
            champion=_known(champion),
            candidate=_known(self.registry.candidate()),
            previous=_known(self.registry.previous(champion)) if champion else None,
            pinned=decision_in(champion, PINNED),
            decisions=decisions,
        )

    # In a thread

    def _carry_out(self, asked: ChampionRequest) -> tuple[ChampionDecision, str, ModelVersionRef | None]:
        champion = self.registry.champion()
        pin = decision_in(champion, PINNED)
        if asked.action == "approve":
            ref = self._chosen(asked, self.registry.candidate(), "There is no candidate; name a version to approve.")
        elif asked.action == "roll-back":
            if champion is None:
                raise InvalidRequestError("There is no champion to roll back from.")
            ref = self._chosen(asked, self.registry.previous(champion), "There is no earlier champion to roll back to.")
        else:
            ref = self._chosen(asked, champion, f"There is no champion to {asked.action}.")
        decision = ChampionDecision(
            action=asked.action, who=asked.who.strip(), why=asked.why.strip(), at=time.time(), model=ref.model,
            version=ref.version, before=_label(champion) if champion else "",
        )  # fmt: skip
        if asked.action in ("approve", "roll-back"):
            return decision, self._crown(decision, ref, champion, pin), ref
        if ref != champion:
            raise InvalidRequestError(f"{_label(ref)} is not the champion; only the champion is pinned.")
        text = msgspec.json.encode(decision).decode()
        if asked.action == "pin":
            if pin is not None:
                raise InvalidRequestError(f"{_label(ref)} is pinned already, by {pin.who} ({pin.why}).")
            self.registry.tag(ref, {PINNED: text, UNPINNED: None})
            return decision, f"{_label(ref)} is pinned: no round changes the champion until it is unpinned.", None
        if pin is None:
            raise InvalidRequestError(f"{_label(ref)} is not pinned.")
        self.registry.tag(ref, {PINNED: None, UNPINNED: text})
        return decision, f"{_label(ref)} is no longer pinned.", None

    def _chosen(self, asked: ChampionRequest, usual: ModelVersionRef | None, otherwise: str) -> ModelVersionRef:
        if asked.version and not asked.model:
            raise InvalidRequestError("A version needs the name of its model.")
        ref = self.registry.named(asked.model, asked.version) if asked.model else usual
        if ref is None:
            raise InvalidRequestError(otherwise)
        return ref

    def _crown(
        self,
        decision: ChampionDecision,
        ref: ModelVersionRef,
        champion: ModelVersionRef | None,
        pin: ChampionDecision | None,
    ) -> str:
        """Make a version champion; the tags are written first, so that the same request goes on with what was begun."""
        if ref == champion:
            raise InvalidRequestError(f"{_label(ref)} is the champion already.")
        if pin is not None:
            raise InvalidRequestError(f"{pin.label} is pinned by {pin.who} ({pin.why}); unpin it first.")
        if not self.registry.has_onnx_model(ref):
            raise ModelRefusedError(f"{_label(ref)} has no ONNX model, so it could not be served.")
        candidate = self.registry.candidate()
        text = msgspec.json.encode(decision).decode()
        back = decision.action == "roll-back"
        if back and champion is not None:
            self.registry.tag(champion, {ROLLED_BACK: text})
        self.registry.tag(ref, {RESTORED if back else APPROVED: text, ROLLED_BACK: None})
        self.registry.set_champion(ref)
        if not back or candidate == ref:
            self.registry.set_candidate(None)
        if back and champion is not None:
            return f"{_label(ref)} is champion again. {_label(champion)} is not crowned by a round any more."
        before = f"; it replaces {_label(champion)}" if champion else ""
        return f"{_label(ref)} is champion{before}."


def _label(ref: ModelVersionRef) -> str:
    return f"{ref.model} {ref.version}"


def _known(ref: ModelVersionRef | None) -> KnownVersion | None:
    if ref is None:
        return None
    return KnownVersion(model=ref.model, version=ref.version, framework=ref.framework, rmse=_number(ref, HOLDOUT_RMSE))


def _number(ref: ModelVersionRef, tag: str) -> float | None:
    try:
        return float(ref.tags[tag])
    except (KeyError, ValueError):
        return None
