"""A person's decisions about the champion: the request to ``ml_consumer``, and what is known of them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from complex_system.protocol.base import Empty, Message, Request

Action = Literal["approve", "pin", "unpin", "roll-back"]
"""What a person decides: crown a version, keep the champion whatever rounds find, end that, or return to an earlier champion."""
Mode = Literal["automatic", "approved"]
"""Whether the winner of a round becomes champion immediately, or candidate until a person approves it."""


class ChampionRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A person's decision. Without ``model`` and ``version`` it is about the candidate, the champion, or the champion before.

    Attributes:
        action: What is decided.
        who: Name of the person.
        why: The reason.
        model: Registered name of the version.
        version: Registered version.
    """

    action: Action
    who: Annotated[str, Meta(min_length=1, max_length=100)]
    why: Annotated[str, Meta(min_length=1, max_length=500)]
    model: Annotated[str, Meta(max_length=250)] = ""
    version: Annotated[str, Meta(max_length=20)] = ""


class ChampionDecision(Message, frozen=True, kw_only=True):
    """A decision that was carried out.

    Attributes:
        action: What was decided.
        who: Name of the person.
        why: The reason.
        at: When, seconds since 1970 (UTC).
        model: Registered name of the version that it is about.
        version: Registered version.
        before: The champion before, as ``<model> <version>``; empty where there was none.
    """

    action: Action
    who: str
    why: str
    at: float
    model: str
    version: str
    before: str = ""

    @property
    def label(self) -> str:
        """Model and version."""
        return f"{self.model} {self.version}"


class KnownVersion(Message, frozen=True, kw_only=True):
    """A version of a registered model.

    Attributes:
        model: Registered name.
        version: Registered version.
        framework: Its framework.
        rmse: On the hold-out part of the round that chose it, in the target's unit; None where that is not known.
    """

    model: str
    version: str
    framework: str = ""
    rmse: float | None = None

    @property
    def label(self) -> str:
        """Model and version."""
        return f"{self.model} {self.version}"


class Promotion(Message, frozen=True, kw_only=True):
    """Which versions have which part, and what people decided.

    Attributes:
        mode: How the winner of a round becomes champion.
        champion: None before the first.
        candidate: Waits for a person's approval; None where none does.
        previous: What a roll-back returns to; None where there is no earlier champion.
        pinned: Who pinned the champion; None where it is not pinned.
        decisions: The newest first, at most 50.
        message: What was done, in the reply to a decision.
    """

    mode: Mode = "automatic"
    champion: KnownVersion | None = None
    candidate: KnownVersion | None = None
    previous: KnownVersion | None = None
    pinned: ChampionDecision | None = None
    decisions: tuple[ChampionDecision, ...] = ()
    message: str = ""


GET_PROMOTION = Request("get-promotion", Empty, Promotion, "Return champion, candidate, pin, and the decisions of people.")
DECIDE_ON_CHAMPION = Request(
    "decide-on-champion",
    ChampionRequest,
    Promotion,
    "Carry out a person's decision, and return the state after it; refused with the reason where it cannot be done.",
)
