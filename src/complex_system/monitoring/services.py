"""Who is there: every service's replicas by their heartbeats, who stopped in order, who fell silent, who was started again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

STOPPED = "stopped"
SILENT = "silent"
"""State of a replica that sends no heartbeats any more and did not say that it stops."""
STOPPED_KEPT = 300.0
"""Seconds that a stopped replica is shown."""
SILENT_KEPT = 24 * 3600.0
"""Seconds that a silent replica is shown if nothing takes its place."""
LATE_LOOK = 3.0
"""A look that comes so many seconds late proves nothing: the heartbeats waited, too."""
EXPECTED_WITHIN = 60.0
"""Seconds that one who was there before monitoring was started anew may take: the whole system may be starting with it."""


@dataclass
class Replica:
    """One process of a service, as its last heartbeat described it."""

    service: str
    replica: str
    seen: float
    beat: dict[str, Any] = field(default_factory=dict)
    state: str = ""
    expected: bool = False
    """Whether only an earlier process of monitoring has heard from it."""

    @property
    def is_there(self) -> bool:
        """Whether it runs, as far as is known."""
        return self.state not in (STOPPED, SILENT)

    @property
    def is_missing(self) -> bool:
        """Whether another one may have been started in its place."""
        return self.state == SILENT or self.expected


class ServiceBook:
    """Keeps what heartbeats say. Times are of ``clock``, monotonic seconds."""

    def __init__(self, silent_after: float, clock: Callable[[], float]) -> None:
        """Makes an empty book.

        Args:
            silent_after: Seconds without a heartbeat after which a replica is silent.
            clock: Monotonic time in seconds.
        """
        self._silent_after = silent_after
        self._clock = clock
        self._looked = clock()
        self._replicas: dict[tuple[str, str], Replica] = {}
        self._restarts: dict[str, int] = {}

    def beaten(self, beat: dict[str, Any]) -> bool:
        """Takes a heartbeat; returns whether the replica is new, or there again, or has stopped.

        A new replica of a service takes the place of a silent one, or of one that is expected from before a restart of monitoring, for
        a process that is started again has another name; the same name with a later start is the same one started again.
        """
        service, name = str(beat["service"]), str(beat["replica"])
        known = self._replicas.get((service, name))
        started_again = known is not None and beat.get("started", 0) != known.beat.get("started", 0)
        changed = known is None or started_again or not known.is_there or beat["state"] == STOPPED
        if known is None:
            missing = [key for key, each in self._replicas.items() if key[0] == service and each.is_missing]
            if missing:
                del self._replicas[missing[0]]
        if started_again or (known is None and missing):
            self._restarts[service] = self._restarts.get(service, 0) + 1
        self._replicas[service, name] = Replica(service, name, self._clock(), dict(beat), str(beat["state"]))
        return changed

    def look(self) -> list[Replica]:
        """Finds who has fallen silent since the last look; to be called every second."""
        now = self._clock()
        late, self._looked = now - self._looked > LATE_LOOK, now
        newly = []
        for key, each in list(self._replicas.items()):
            if late and each.is_there:
                each.seen = max(each.seen, now - self._silent_after / 2)
            age = now - each.seen
            patience = max(EXPECTED_WITHIN, self._silent_after) if each.expected else self._silent_after
            if each.is_there and age > patience:
                each.state = SILENT
                newly.append(each)
            elif (each.state == STOPPED and age > STOPPED_KEPT) or (each.state == SILENT and age > SILENT_KEPT):
                del self._replicas[key]
        return newly

    def expected(self, services: list[dict[str, Any]]) -> None:
        """Takes what :meth:`as_list` made in an earlier process: who was there then is expected to be there again.

        Those that are unknown to it and were heard by now have taken places, as in :meth:`beaten`.
        """
        for each in services:
            service = str(each["service"])
            kept = {str(replica["replica"]): replica for replica in each["replicas"]}
            missing = [
                name
                for name, replica in kept.items()
                if replica.get("state") not in (STOPPED, SILENT) and (service, name) not in self._replicas
            ]
            new = sum(key[0] == service and key[1] not in kept and known.is_there for key, known in self._replicas.items())
            for name in missing[new:]:
                replica = kept[name]
                self._replicas[service, name] = Replica(
                    service, name, self._clock(), dict(replica), str(replica.get("state", "")), expected=True
                )
            self._restarts[service] = int(each.get("restarts", 0)) + min(new, len(missing))

    def as_list(self) -> list[dict[str, Any]]:
        """Services by name: ``{"service", "state", "running", "restarts", "cpu_percent", "memory_megabytes", "replicas"}``.

        Each of ``replicas`` is its last heartbeat with ``state`` and ``heartbeat_age`` in seconds. A service's state is its worst
        running replica's, ``silent`` if one fell silent, ``stopped`` if none is left.
        """
        now = self._clock()
        services = []
        for name in sorted({service for service, _ in self._replicas}):
            replicas = [each for each in self._replicas.values() if each.service == name]
            running = [each for each in replicas if each.is_there]
            services.append({
                "service": name,
                "state": _worst([each.state for each in replicas]),
                "running": len(running),
                "restarts": self._restarts.get(name, 0),
                "cpu_percent": sum(float(each.beat.get("cpu_percent") or 0.0) for each in running),
                "memory_megabytes": sum(float(each.beat.get("memory_megabytes") or 0.0) for each in running),
                "replicas": [
                    {**each.beat, "state": each.state, "heartbeat_age": now - each.seen}
                    for each in sorted(replicas, key=lambda each: each.replica)
                ],
            })  # fmt: skip
        return services

    def metrics(self) -> dict[str, float]:
        """Flat metrics.

        ``services/running``, ``services/silent``, ``services/failing``, ``services/restarts``; for every service
        ``services/silent/<name>`` (0 or 1) and ``services/<name>/replicas``, ``cpu_percent``, ``memory_megabytes``, ``heartbeat_age``
        (seconds, the oldest replica's) and ``restarts``.
        """
        services = self.as_list()
        states = [replica["state"] for each in services for replica in each["replicas"]]
        metrics = {
            "services/running": float(sum(each["running"] for each in services)),
            "services/silent": float(states.count(SILENT)),
            "services/failing": float(states.count("failing")),
            "services/restarts": float(sum(each["restarts"] for each in services)),
        }
        for each in services:
            name = f"services/{each['service']}"
            ages = [replica["heartbeat_age"] for replica in each["replicas"] if replica["state"] != STOPPED]
            metrics |= {
                f"{name}/replicas": float(each["running"]),
                f"{name}/cpu_percent": each["cpu_percent"],
                f"{name}/memory_megabytes": each["memory_megabytes"],
                f"{name}/restarts": float(each["restarts"]),
                f"services/silent/{each['service']}": float(each["state"] == SILENT),
            }
            if ages:
                metrics[f"{name}/heartbeat_age"] = max(ages)
        return metrics


_BY_SEVERITY = (SILENT, "failing", "waiting", "starting", "working", "ready", STOPPED)


def _worst(states: list[str]) -> str:
    return min(states, key=lambda state: _BY_SEVERITY.index(state) if state in _BY_SEVERITY else 0)
