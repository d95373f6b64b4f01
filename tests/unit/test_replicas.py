"""Replicas find each other by heartbeats and divide the keys."""

from __future__ import annotations

import pyarrow as pa

from complex_system.domain.pages import Page
from complex_system.messaging.replicas import ALL, MAX_REPLICAS, Replicas, Share
from complex_system.protocol.operations import Heartbeat, State
from complex_system.service_layer.database.requests import part_of


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def beat(instance: str, service: str = "data_processing", version: str = "v1", state: State = "ready") -> Heartbeat:
    return Heartbeat(service=service, instance=instance, pipeline_version=version, state=state)


def replica(instance: str, clock: Clock) -> Replicas:
    return Replicas(beat(instance), 6.0, clock)


def test_more_replicas_than_can_be_are_not_believed() -> None:
    own = Heartbeat(service="data_processing", instance="own")
    replicas = Replicas(own, 6.0)
    for number in range(MAX_REPLICAS + 100):
        replicas.hear(Heartbeat(service="data_processing", instance=f"invented-{number}"))
    assert replicas.share.count == MAX_REPLICAS + 1


def test_who_hears_nobody_takes_everything() -> None:
    alone = replica("a", Clock())
    assert not alone.hear(beat("a"))
    assert alone.share == ALL


def test_those_who_hear_each_other_take_different_shares() -> None:
    clock, names = Clock(), ["c", "a", "b"]
    everybody = {name: replica(name, clock) for name in names}
    for listener in everybody.values():
        for name in names:
            listener.hear(beat(name))
    assert {name: each.share for name, each in everybody.items()} == {"a": Share(0, 3), "b": Share(1, 3), "c": Share(2, 3)}


def test_who_is_heard_no_more_loses_its_share() -> None:
    clock = Clock()
    one = replica("b", clock)
    one.hear(beat("a"))
    clock.now += 5.9
    assert one.share == Share(1, 2)
    clock.now += 0.2
    assert one.share == ALL
    one.hear(beat("a"))
    assert one.share == Share(1, 2)
    one.hear(beat("a", state="stopped"))  # it says goodbye
    assert one.share == ALL


def test_other_services_other_pipelines_and_other_messages_are_nobody() -> None:
    one = replica("a", Clock())
    for other in (beat("b", service="ml_consumer"), beat("b", version="v2"), beat("")):
        assert not one.hear(other)
    assert one.share == ALL


def test_the_shares_of_a_page_are_its_rows_once_each() -> None:
    keys = [f"key-{i}" for i in range(1000)]
    page = Page(pa.table({"_id": keys, "x": [float(i) for i in range(1000)]}), next="key-999")
    parts = [part_of(page, Share(index, 3), 1000) for index in range(3)]
    assert all(part.next == "key-999" for part in parts)
    assert all(part.table.num_rows > 200 for part in parts)
    rows = [row for part in parts for row in part.table.to_pylist()]
    assert sorted(rows, key=lambda row: float(row["x"])) == page.table.to_pylist()
    first = part_of(page, Share(0, 3), 10)
    assert first.table.num_rows == 10
    assert first.next == first.table.column("_id")[-1].as_py() == parts[0].table.column("_id")[9].as_py()
