"""The page asks the champion's service from its threads."""

from __future__ import annotations

import asyncio

import pytest

from complex_system.errors import ReplyTimeoutError
from complex_system.monitoring.page.trial import Asking
from complex_system.protocol.trial import ModelInputs, Suggestions, SuggestRequest, TriedRecord, TryRequest

INPUTS = ModelInputs(model="lab-lightgbm", version="1", pipeline_version="1", target="y")


class SlowTrials:
    def __init__(self) -> None:
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def inputs(self) -> ModelInputs:
        self.asked.set()
        await self.may_answer.wait()
        return INPUTS

    async def attempt(self, asked: TryRequest) -> TriedRecord:
        raise NotImplementedError

    async def suggest(self, asked: SuggestRequest) -> Suggestions:
        raise NotImplementedError


async def test_while_the_service_does_not_answer_one_thread_waits_for_it() -> None:
    trials = SlowTrials()
    asking = Asking(trials, asyncio.get_running_loop())
    first = asyncio.create_task(asyncio.to_thread(asking.inputs))
    await trials.asked.wait()
    with pytest.raises(ReplyTimeoutError):
        await asyncio.to_thread(asking.inputs)
    trials.may_answer.set()
    assert await first == INPUTS
    assert await asyncio.to_thread(asking.inputs) == INPUTS
