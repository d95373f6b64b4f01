"""The lease of a service that must act alone: one replica holds it, the others are stand-bys.

The lease is an entry in a key-value bucket of JetStream. Its holder writes it again every second, each time only if nobody else has
written it in between. The broker deletes an entry that is ``TTL`` seconds old, by its own clock, and of the stand-bys that then write
their own entry the first one succeeds. No times of different hosts are compared: a holder counts ``HOLD`` seconds, by its own
monotonic clock, from the moment before its last successful write, and then stops acting, well before the broker can delete the entry.
A process that was frozen therefore finds, when it goes on, that it may not act any more.

A holder that could not renew its lease goes on as soon as it can, if nobody else has held it meanwhile. Otherwise what it remembers
is out of date, and the service has to start anew, as a stand-by. An expired entry does not tell who wrote it; the bucket's sequence
does: whoever takes the lease writes twice, so a single write more than is known is the holder's own, whose answer it did not hear.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError, ServiceUnavailableError
from nats.js.kv import KeyValue

from complex_system.errors import NotHolderError
from complex_system.messaging.process import is_dead
from complex_system.protocol.operations import State

log = logging.getLogger(__name__)

TTL = 6.0
"""Seconds on the broker's clock after which it deletes an entry that was not written again."""
HOLD = 4.5
"""Seconds on the holder's monotonic clock for which a write allows it to act."""
RENEW = 1.0
"""Seconds between two writes of the holder."""
LOOK = 0.5
"""Seconds between two looks of a stand-by."""
LOOK_FOR_JETSTREAM = 10.0
"""Seconds between two looks for JetStream where the broker has none."""
REQUEST_SECONDS = 1.5
DEFAULT_KEY = "holder"

Waits = Callable[[State, str], Awaitable[None]]
"""Takes a state and its detail."""

_NO_JETSTREAM = {None, 10039, 10076}  # nobody answers JetStream's requests; not enabled for the account; not enabled


def bucket_of(service: str) -> str:
    """Return the bucket of a service's leases. Its stream is ``KV_<bucket>``, with the subjects ``$KV.<bucket>.>``."""
    return f"lease_{service}"


class Holder(msgspec.Struct, frozen=True):
    """The content of the entry.

    Attributes:
        instance: Unique id of the process.
        replica: What people call it.
        process: Names the process on its machine, see ``messaging.process``.
    """

    instance: str
    replica: str
    process: str = ""


class Lease:
    """The lease of one service, as one replica sees it."""

    def __init__(
        self,
        client: Client,
        service: str,
        me: Holder,
        *,
        key: str = DEFAULT_KEY,
        replicas: int = 1,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Make a lease that is not held.

        Args:
            client: The connection to the broker.
            service: snake_case name of the service.
            me: This replica.
            key: Tells leases of the same service apart, where several may run beside each other.
            replicas: Brokers of a cluster that keep the entry.
            clock: Seconds that only grow, also while the machine sleeps.
        """
        self._context = client.jetstream(timeout=REQUEST_SECONDS)
        self._service = service
        self._me = me
        self._key = key
        self._replicas = replicas
        self._clock = clock or _uninterrupted_seconds
        self._bucket: KeyValue | None = None
        self._revision = 0
        self._until = float("-inf")
        self._unguarded = False
        self._keeper: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()
        """Set when another replica holds, or held, the lease: what this one remembers is out of date."""
        self.holder = ""
        """The replica that holds the lease, as far as this one knows."""

    @property
    def is_held(self) -> bool:
        """Whether this replica may act at this moment. To be asked directly before everything that has an effect."""
        return not self.lost.is_set() and (self._unguarded or self._clock() < self._until)

    def check(self) -> None:
        """Make sure that this replica may act.

        Raises:
            NotHolderError: It may not.
        """
        if not self.is_held:
            raise NotHolderError(f"This replica does not hold the lease of {self._service}; it does nothing.")

    def check_not_lost(self) -> None:
        """Make sure that no other replica has held the lease since this one did.

        Raises:
            NotHolderError: One has.
        """
        if self.lost.is_set():
            raise NotHolderError(f"Another replica acts now ({self.holder}); this one has to start again as its stand-by.")

    async def take(self, waits: Waits, warm_up: Callable[[], Awaitable[None]] | None = None) -> None:
        """Wait until this replica holds the lease, and keep it from then on.

        Without JetStream this returns, and nothing keeps a second replica from acting, which the log says once.

        Args:
            waits: Is told the state of a replica that waits, and for what.
            warm_up: Is called once, by a replica that has to wait; it is ready to take over afterwards.
        """
        warming: asyncio.Task[None] | None = None
        try:
            while not await self._taken(waits, ready=warm_up is None or (warming is not None and warming.done())):
                if warm_up is not None and warming is None:
                    warming = asyncio.create_task(_forgiving(warm_up()))
                await asyncio.sleep(LOOK)
        finally:
            if warming is not None:
                warming.cancel()
        self._keeper = asyncio.create_task(self._keep())

    async def release(self) -> None:
        """Give the lease back, so that a stand-by need not wait until it expires."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._bucket is not None and self._revision and not self.lost.is_set():
            self._until = float("-inf")
            with contextlib.suppress(NatsError, TimeoutError):
                await self._bucket.delete(self._key, last=self._revision)

    # As a stand-by

    async def _taken(self, waits: Waits, *, ready: bool) -> bool:
        try:
            if await self._try_to_take():
                return True
            await waits("ready" if ready else "starting", f"stand-by of {self.holder}" if self.holder else "stand-by")
        except (NatsError, TimeoutError) as error:
            if _is_missing(error):
                self._unguarded = True
                log.warning(
                    "The broker has no JetStream, so nothing keeps a second %s from acting at the same time: run one only, or give "
                    "the broker `jetstream { store_dir: ... }`",
                    self._service,
                )
                return True
            reason = error or type(error).__name__
            await waits("waiting", f"JetStream does not answer ({reason}), so it is not known who holds the lease")
        return False

    async def _try_to_take(self) -> bool:
        bucket = await self._open()
        last = None
        with contextlib.suppress(KeyNotFoundError):
            entry = await bucket.get(self._key)
            other, last = _decoded(entry.value), entry.revision
            self.holder = other.replica
            mine = other.instance == self._me.instance  # written before, without hearing of it
            if not mine and not is_dead(other.process):
                return False
        # The second write is for an earlier holder, see _regain.
        return await self._written(bucket, last) and await self._written(bucket, self._revision)

    async def _written(self, bucket: KeyValue, last: int | None) -> bool:
        """Write the entry if it is still as it was; return whether that was so."""
        content = msgspec.json.encode(self._me)
        began = self._clock()
        try:
            if last is None:
                self._revision = await bucket.create(self._key, content)
            else:
                self._revision = await bucket.update(self._key, content, last=last)
        except KeyWrongLastSequenceError:
            return False
        self._until = began + HOLD
        self._unguarded = False
        self.holder = self._me.replica
        return True

    async def _open(self) -> KeyValue:
        if self._bucket is None:
            name = bucket_of(self._service)
            try:
                self._bucket = await self._context.key_value(name)
            except BucketNotFoundError:
                self._bucket = await self._context.create_key_value(
                    KeyValueConfig(
                        bucket=name,
                        history=1,
                        ttl=TTL,
                        storage=StorageType.FILE,
                        replicas=self._replicas,
                        max_value_size=4096,
                    )
                )
        return self._bucket

    # As the holder

    async def _keep(self) -> None:
        told = False
        while not self.lost.is_set():
            await asyncio.sleep(LOOK_FOR_JETSTREAM if self._unguarded else RENEW)
            try:
                await self._renew()
                if told:
                    log.info("The lease of %s is renewed again", self._service)
                told = False
            except (NatsError, TimeoutError) as error:
                self._bucket = None
                if not self._unguarded and not self.is_held and not told:
                    told = True
                    reason = str(error) or type(error).__name__
                    log.warning("The lease of %s cannot be renewed, nothing is done until then: %s", self._service, reason)
            except Exception:
                self._bucket = None
                log.exception("The lease of %s could not be renewed", self._service)

    async def _renew(self) -> None:
        try:
            bucket = await self._open()
        except ServiceUnavailableError as error:
            if not _is_missing(error):
                raise
            # Nobody can take the lease either, so its last holder goes on.
            self._until = self._clock() + HOLD
            return
        if self._unguarded:
            if not await self._try_to_take():
                self._lose()
        elif not await self._written(bucket, self._revision):
            await self._regain(bucket)

    async def _regain(self, bucket: KeyValue) -> None:
        """Take the lease again after it expired, or after a write whose success was not heard of."""
        last = self._revision
        try:
            entry = await bucket.get(self._key)
        except KeyNotFoundError:
            # Every write to the bucket counts one up. Whoever has held the lease in between has written at least twice; of this
            # one's writes without an answer, one at most was taken, because each wants the last known entry.
            written = await self._written(bucket, None)
            if written and self._revision > last + 2:
                await bucket.delete(self._key, last=self._revision)
                written = False
            if not written:
                self._lose()
            return
        found = _decoded(entry.value)
        if found.instance != self._me.instance or entry.revision is None:
            self.holder = found.replica
            self._lose()
        else:
            await self._written(bucket, entry.revision)

    def _lose(self) -> None:
        log.warning("The lease of %s is lost to %s", self._service, self.holder or "another replica")
        self._until = float("-inf")
        self.lost.set()


async def _forgiving(warm_up: Awaitable[None]) -> None:
    """Warm up; what fails now is tried again, and told, when it is needed."""
    try:
        await warm_up
    except Exception:
        log.exception("The stand-by could not be prepared")


def _uninterrupted_seconds() -> float:
    """Return seconds that only grow; on Linux also while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _decoded(content: bytes | None) -> Holder:
    try:
        return msgspec.json.decode(content or b"", type=Holder)
    except msgspec.MsgspecError:
        return Holder("", "another replica")


def _is_missing(error: BaseException) -> bool:
    """Whether an error says that the broker has no JetStream, and not only that it does not answer at the moment."""
    return isinstance(error, ServiceUnavailableError) and error.err_code in _NO_JETSTREAM
