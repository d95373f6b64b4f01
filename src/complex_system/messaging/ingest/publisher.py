"""Publishing to the ingest from our own services; any other NATS client needs one call."""

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
from complex_system.messaging.subjects import INGEST_RAW
from complex_system.settings import Settings


class IngestClient:
    """Publishes records and waits until the stream has them, not the database."""

    def __init__(self, connection: ServiceConnection, settings: Settings, sender: str, source: str = "") -> None:
        """Make a client.

        Args:
            connection: The connection.
            settings: The broker's address, for error messages.
            sender: Class name of the service.
            source: Last part of the subject, which names the source; may be empty.
        """
        self._connection = connection
        self._streams = IngestStreams(connection.client, settings)
        self._sender = sender
        self._subject = ".".join(part for part in (INGEST_RAW.name, source) if part)

    async def publish(self, records: list[Record]) -> bool:
        """Publish records; return whether they were new to the stream. Repeating it changes nothing.

        Raises:
            TooLargeError: The records do not fit into one message.
            NobodyListensError: No stream accepted them; they may be published again.
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
