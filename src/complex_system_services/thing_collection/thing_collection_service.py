"""Makes records of the readings that the stream holds, and answers how its sensors are."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from complex_system.errors import ComplexSystemError, StartError
from complex_system.messaging.clients import DatabaseClient, DocumentClient, ServingClient
from complex_system.messaging.handlers import answers
from complex_system.messaging.readings import ReadingStream, subjects_of
from complex_system.messaging.service import SystemService
from complex_system.protocol.base import Empty
from complex_system.protocol.collection import GET_COLLECTION, CollectionState
from complex_system.protocol.operations import State
from complex_system.service_layer.collection.collection import Collection


class ThingCollectionService(SystemService):
    """Acts alone: windows are made of readings in the order of the stream, by one process at a time."""

    acts_alone: ClassVar[bool] = True

    @override
    async def on_start(self) -> None:
        collecting = self.dataset.collect
        if collecting is None:
            raise StartError("dataset.yaml has no 'collect', so there is nothing to collect; docs/machines.md shows one.")
        stream = ReadingStream(self.broker, self.settings, subjects_of(collecting))
        database, documents, serving = DatabaseClient(self), DocumentClient(self), ServingClient(self)
        self._collection = Collection(self.dataset, stream, database, documents, serving, self._check_lease)
        self.every(0.0, self._turn, longest_pause=4.0)
        if self.settings.mqtt_port:
            self._stream = stream
            self.every(0.0, self._forward, longest_pause=4.0)

    def _check_lease(self) -> None:
        assert self.lease is not None
        self.lease.check()

    @override
    async def on_stop(self) -> None:
        if hasattr(self, "_collection"):  # else it ended while it started
            await self._collection.close()

    @override
    def initial_state(self) -> tuple[State, str]:
        return "waiting", "the stream of readings"

    async def _turn(self) -> None:
        try:
            await self._collection.turn(self._shutdown_event)
        except ComplexSystemError as error:
            await self.set_state("waiting", error.message)
            raise
        except Exception:
            await self.set_state("failing", self._collection.problem)
            raise
        await self.set_state("ready")

    async def _forward(self) -> float:
        return await self._stream.forward(self._shutdown_event)

    @answers(GET_COLLECTION)
    async def _get_collection(self, _: Empty) -> CollectionState:
        return self._collection.state()
