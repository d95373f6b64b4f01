"""Services by the heartbeats of their replicas (running, stopped in order, silent, restarted), and figures of the host."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import psutil
from msgspec.structs import replace

from complex_system.monitoring.points import Figures
from complex_system.protocol.base import Message
from complex_system.protocol.operations import Heartbeat, State

STOPPED_KEPT = 300.0
"""Seconds that a stopped replica is shown."""
SILENT_KEPT = 24 * 3600.0
"""Seconds that a silent replica is shown if nothing takes its place."""
LATE_CHECK = 3.0
"""A check that comes so many seconds late proves nothing: the heartbeats waited, too."""
EXPECTED_WITHIN = 60.0
"""Seconds that a replica from before a restart of monitoring may take: the whole system may be starting with it."""
MAX_REPLICAS = 200
"""Replicas that are kept of a declared service, and of all others together; a new one then takes the place of the one that has not
run for longest."""
MAX_OWN_SERVICES = 50
"""Names of services that nobody has declared, a project's own, which a process of monitoring takes in."""
MAX_NAME = 200
MAX_DETAIL = 1000
"""Characters of names and of what a replica says about itself."""
MAX_NUMBER = 1e12
"""Largest number that is believed of a process."""
_OWN_SERVICE = re.compile("[a-z][a-z0-9_]{0,62}")
_WORST_FIRST: tuple[State, ...] = ("silent", "failing", "waiting", "starting", "working", "ready", "stopped")
_MEGABYTE = 1e6


log = logging.getLogger(__name__)


class ReplicaState(Heartbeat, frozen=True, kw_only=True):
    """The last heartbeat of a replica, and its state by now.

    Attributes:
        heartbeat_age: Seconds since that heartbeat.
    """

    heartbeat_age: float = 0.0

    @property
    def is_running(self) -> bool:
        """True unless it has stopped or is silent."""
        return self.state not in ("stopped", "silent")


class ServiceState(Message, frozen=True, kw_only=True):
    """A service with its replicas.

    Attributes:
        service: snake_case name.
        state: That of the worst running replica; ``silent`` if one fell silent, ``stopped`` if none is left.
        running: Running replicas.
        restarts: How often a replica was started again.
        cpu_percent: Of all running replicas; 100 is one busy core.
        memory_megabytes: Of all running replicas.
        replicas: By name.
    """

    service: str
    state: State
    running: int
    restarts: int = 0
    cpu_percent: float = 0.0
    memory_megabytes: float = 0.0
    replicas: tuple[ReplicaState, ...] = ()


@dataclass
class _Replica:
    """One process of a service, as its last heartbeat described it."""

    beat: Heartbeat
    seen: float
    state: State
    expected: bool = False
    """True while only an earlier process of monitoring has heard from it."""

    @property
    def is_running(self) -> bool:
        return self.state not in ("stopped", "silent")

    @property
    def is_missing(self) -> bool:
        """True where another one may have been started in its place."""
        return self.state == "silent" or self.expected


class ServiceBook:
    """Keeps what heartbeats say, of a bounded number of services and replicas: anybody may have sent them.

    A project's own services are declared nowhere. The first ``MAX_OWN_SERVICES`` names that are heard are kept; a name is not given
    up before this process ends, because its figures stay in the history.

    Times are of ``clock``, monotonic seconds.
    """

    def __init__(
        self,
        silent_after: float,
        clock: Callable[[], float],
        declared: Collection[str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Make an empty book.

        Args:
            silent_after: Seconds without a heartbeat after which a replica is silent.
            clock: Monotonic time in seconds.
            declared: Names of the system's own services; None for any name, without a bound.
            now: Seconds since 1970.
        """
        self._began = now()
        self._declared = declared
        self._own: set[str] = set()
        self._ignored = 0
        self._silent_after = silent_after
        self._clock = clock
        self._checked = clock()
        self._replicas: dict[tuple[str, str], _Replica] = {}
        self._restarts: dict[str, int] = {}

    def heartbeat_received(self, beat: Heartbeat) -> bool:
        """Record a heartbeat; return whether the replica is new, runs again, or has stopped.

        A new replica of a service takes the place of a silent one, or of one that is expected from before a restart of monitoring, for
        a process that is started again has another name; the same name with a later start is the same one started again. It counts
        as a restart unless the one before said that it stops, or the whole system was started again.
        """
        service, key = beat.service, (beat.service, beat.replica)
        known = self._replicas.get(key)
        fault = self._fault(beat) or (
            "" if known is not None or self._has_room(service) else f"more than {MAX_REPLICAS} replicas"
        )
        if fault:
            self._ignored += 1
            if self._ignored in (1, 10, 100) or self._ignored % 1000 == 0:
                log.warning(
                    "Heartbeats were ignored (%d), the last one of %.60r (%.60r): %s",
                    self._ignored, service, beat.replica, fault,
                )  # fmt: skip
            return False
        if len(beat.detail) > MAX_DETAIL:
            beat = replace(beat, detail=beat.detail[:MAX_DETAIL])
        before = known if known is None or beat.started != known.beat.started else None
        changed = known is None or before is not None or not known.is_running or beat.state == "stopped"
        if known is None:
            missing = [name for name, each in self._replicas.items() if name[0] == service and each.is_missing]
            before = self._replicas.pop(missing[0]) if missing else None
        if before is not None and before.state != "stopped" and not (before.expected and self._came_with_us(beat)):
            self._restarts[service] = self._restarts.get(service, 0) + 1
        self._replicas[key] = _Replica(beat, self._clock(), beat.state)
        return changed

    def _came_with_us(self, beat: Heartbeat) -> bool:
        """Return whether a replica began as this process did, or later: then the whole system was started again."""
        return beat.started >= self._began - EXPECTED_WITHIN

    def _fault(self, beat: Heartbeat) -> str:
        """Return why a heartbeat is not believed; empty if it is."""
        texts = (beat.service, beat.replica, beat.instance, beat.host, beat.url, beat.version, beat.pipeline_version)
        if max(map(len, texts)) > MAX_NAME:
            return f"a text of more than {MAX_NAME} characters"
        if not all(0 <= number <= MAX_NUMBER for number in (beat.started, beat.cpu_percent, beat.memory_megabytes)):
            return "a number that cannot be"
        if self._takes(beat.service):
            return ""
        if not _OWN_SERVICE.fullmatch(beat.service):
            return "a service's name has small letters, digits and '_', at most 63"
        return f"more than {MAX_OWN_SERVICES} services of the project's own; a restart of ml_monitoring forgets those that are gone"

    def _is_declared(self, service: str) -> bool:
        return self._declared is None or service in self._declared

    def _takes(self, service: str) -> bool:
        """Return whether a service is kept; one of a project's own takes a place where there is one."""
        if self._is_declared(service) or service in self._own:
            return True
        if len(self._own) == MAX_OWN_SERVICES or not _OWN_SERVICE.fullmatch(service):
            return False
        self._own.add(service)
        return True

    def _has_room(self, service: str) -> bool:
        """Return whether a replica may be added, after making room among those that do not run."""
        sharing = {service} if self._is_declared(service) else self._own
        mine = [(each.seen, name) for name, each in self._replicas.items() if name[0] in sharing]
        if len(mine) < MAX_REPLICAS:
            return True
        idle = [(seen, name) for seen, name in mine if not self._replicas[name].is_running]
        if idle:
            del self._replicas[min(idle)[1]]
        return bool(idle)

    def newly_silent(self) -> list[Heartbeat]:
        """Return the last heartbeats of those that have fallen silent since the last check; to be called every second."""
        now = self._clock()
        late, self._checked = now - self._checked > LATE_CHECK, now
        newly = []
        for key, each in list(self._replicas.items()):
            if late and each.is_running:
                each.seen = max(each.seen, now - self._silent_after / 2)
            age = now - each.seen
            patience = max(EXPECTED_WITHIN, self._silent_after) if each.expected else self._silent_after
            if each.is_running and age > patience:
                each.state = "silent"
                newly.append(each.beat)
            elif (each.state == "stopped" and age > STOPPED_KEPT) or (each.state == "silent" and age > SILENT_KEPT):
                del self._replicas[key]
        return newly

    def expect(self, services: Sequence[ServiceState]) -> None:
        """Take the services of an earlier process of monitoring: what ran then is expected to run again.

        Those that are unknown to it and were heard by now have taken places, as in :meth:`heartbeat_received`.
        """
        for each in services:
            was_there = any(replica.is_running for replica in each.replicas)
            if not (
                self._is_declared(each.service) or each.service in self._own or (was_there and self._takes(each.service))
            ):
                continue
            kept = {replica.replica: replica for replica in each.replicas}
            missing = [
                name for name, replica in kept.items() if replica.is_running and (each.service, name) not in self._replicas
            ]
            mine = {key[1]: known for key, known in self._replicas.items() if key[0] == each.service}
            new = [known for name, known in mine.items() if name not in kept and known.is_running]
            for name in missing[len(new) :]:
                self._replicas[each.service, name] = _Replica(kept[name], self._clock(), kept[name].state, expected=True)
            early = sum(not self._came_with_us(known.beat) for known in new)
            self._restarts[each.service] = each.restarts + min(early, len(missing))

    def services(self) -> list[ServiceState]:
        """Return the services by name."""
        now = self._clock()
        found: dict[str, list[ReplicaState]] = {}
        for (service, _), each in sorted(self._replicas.items()):
            beat = {name: getattr(each.beat, name) for name in Heartbeat.__struct_fields__}
            found.setdefault(service, []).append(
                ReplicaState(**{**beat, "state": each.state, "heartbeat_age": now - each.seen})
            )
        return [self._service(name, replicas) for name, replicas in found.items()]

    def _service(self, name: str, replicas: list[ReplicaState]) -> ServiceState:
        running = [each for each in replicas if each.is_running]
        return ServiceState(
            service=name,
            state=min((each.state for each in replicas), key=_severity),
            running=len(running),
            restarts=self._restarts.get(name, 0),
            cpu_percent=sum(each.cpu_percent for each in running),
            memory_megabytes=sum(each.memory_megabytes for each in running),
            replicas=tuple(replicas),
        )

    def figures(self) -> Figures:
        """Return figures.

        ``services/running``, ``silent``, ``failing`` and ``restarts`` of all; by service ``services/silent`` (0 or 1), ``replicas``,
        ``cpu_percent``, ``memory_megabytes``, ``heartbeat_age`` (seconds, the oldest replica's) and ``restarts``.
        """
        services, figures = self.services(), Figures()
        states = [replica.state for each in services for replica in each.replicas]
        figures.add("services", {
            "running": sum(each.running for each in services), "silent": states.count("silent"),
            "failing": states.count("failing"), "restarts": sum(each.restarts for each in services),
        })  # fmt: skip
        for each in services:
            figures.add("services", {
                "replicas": each.running, "cpu_percent": each.cpu_percent, "memory_megabytes": each.memory_megabytes,
                "restarts": each.restarts, "silent": each.state == "silent",
            }, each.service)  # fmt: skip
            ages = [replica.heartbeat_age for replica in each.replicas if replica.state != "stopped"]
            if ages:
                figures.add("services", {"heartbeat_age": max(ages)}, each.service)
        return figures


def _severity(state: State) -> int:
    return _WORST_FIRST.index(state) if state in _WORST_FIRST else 0


class Host:
    """Reads figures of the host with psutil, under the names and in the units of MLflow's system metrics.

    MLflow's own monitor (``mlflow.system_metrics``) ends for good at the first request that MLflow does not answer.
    """

    def __init__(self) -> None:
        psutil.cpu_percent()  # the first call only sets the beginning of the next one's interval
        network = psutil.net_io_counters()
        self._received, self._sent = network.bytes_recv, network.bytes_sent

    def figures(self) -> Figures:
        """Return the figures of this moment; CPU is the mean since the last call, network traffic the sum since the start."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
        figures = Figures()
        figures.add("system", {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / _MEGABYTE,
            "disk_available_megabytes": disk.free / _MEGABYTE,
            "network_receive_megabytes": (network.bytes_recv - self._received) / _MEGABYTE,
            "network_transmit_megabytes": (network.bytes_sent - self._sent) / _MEGABYTE,
        })  # fmt: skip
        return figures


class KnownServices(Message, frozen=True, kw_only=True):
    """Services as they are kept for the next process of monitoring.

    Attributes:
        services: By name.
    """

    services: tuple[ServiceState, ...] = ()
