"""Publishing to the ingest from our own services; any other NATS client does it with one call."""

from __future__ import annotations

import hashlib

from fastiot.msg import Thing
from nats.errors import Error as NatsError
from nats.js.api import Header

from complex_system.domain.dataset import ID
from complex_system.domain.records import Record
from complex_system.errors import TooLargeError
from complex_system.messaging.codec import serialize_to_bin
from complex_system.messaging.connection import ServiceConnection
from complex_system.messaging.errors import to_thing
from complex_system.messaging.ingest.dead_letters import ROOM_FOR_REASON
from complex_system.messaging.ingest.streams import IngestStreams
from complex_system.messaging.subjects import INGEST_RAW_DATAPOINTS
from complex_system.settings import Settings


class IngestClient:
    """Publishes records and waits until the stream, not the database, has them."""

    def __init__(self, connection: ServiceConnection, settings: Settings, sender: str, source: str = "") -> None:
        """Makes a client.

        Args:
            connection: The connection.
            settings: Where the broker is, for messages.
            sender: Class name of the service.
            source: Last part of the subject, for who reads the stream; may be empty.
        """
        self._connection = connection
        self._streams = IngestStreams(connection.client, settings)
        self._sender = sender
        self._subject = ".".join(part for part in (INGEST_RAW_DATAPOINTS.name, source) if part)

    async def publish(self, records: list[Record]) -> bool:
        """Publishes records; returns whether they were new to the stream. Repeating it changes nothing.

        Raises:
            TooLargeError: They are too many for one message.
            NobodyListensError: No stream took them: they may be published again.
        """
        payload = serialize_to_bin(Thing, to_thing(records, self._sender))
        most = self._connection.max_payload - ROOM_FOR_REASON
        if len(payload) > most:
            raise TooLargeError(
                f"{len(records)} records have {len(payload)} bytes, more than the {most} of one message; publish them in smaller "
                "batches."
            )
        keys = [record.get(ID) for record in records]
        headers = {}
        if all(keys):
            headers[Header.MSG_ID.value] = hashlib.sha256("\n".join(map(str, keys)).encode()).hexdigest()
        try:
            acknowledged = await self._streams.context.publish(self._subject, payload, headers=headers)
        except (NatsError, TimeoutError) as error:
            raise self._streams.explained(error) from error
        return not acknowledged.duplicate
