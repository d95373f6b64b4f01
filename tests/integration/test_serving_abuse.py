"""What nobody should send: generated from our own OpenAPI document, and bodies made to hurt. Always an answer, never a 5xx."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings

# Schemathesis and what it imports warn of their own deprecated parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

_SERVER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from complex_system.domain.dataset import Dataset
from complex_system.serving.engine import Limits
from complex_system.tracking.model_files import SAMPLE_FILE
from models import ManyModels, quick_files, rest_server
from trainings import quick_sample

async def main():
    exec(sys.argv[2])
    dataset = Dataset.load()
    source = ManyModels(dataset)
    files = {**quick_files(), SAMPLE_FILE: quick_sample()}
    source.publish("lab-lightgbm", 1.0, champion=True, files=files)
    source.publish("lab-pytorch", 2.0, files=files)
    async with rest_server(dataset, source, Limits(body_bytes=1_000_000, records=5000)) as (_, client):
        print(client.base_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
POSTS = ("/predict", "/invocations", "/v2/models/champion/infer", "/v2/models/lab-pytorch/versions/1/infer")
GOOD = {"material_id": "00000000", "rohwert_1_labormessung": 3}


@contextmanager
def started(first: str = "") -> Iterator[tuple[str, psutil.Process]]:
    """A server in a process of its own, so that its memory is its own; it runs the statement ``first``."""
    command = [sys.executable, "-c", _SERVER, str(Path(__file__).parents[1]), first]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "the server did not start"
        yield url, psutil.Process(process.pid)
        assert process.poll() is None, "the server ended"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, psutil.Process]]:
    with started() as running:
        yield running


def _operations(url: str) -> list[Any]:
    import schemathesis

    return [each.ok() for each in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]


def _asked(url: str, operation: Any, examples: int, **options: Any) -> list[tuple[bool, int]]:
    """Sends what is generated for an operation; every second time for a model that there is. Whether it was so, and the status."""
    answers: list[tuple[bool, int]] = []
    known = {"name": "lab-pytorch", "version": "1"} if "{version}" in operation.path else {"name": "champion"}

    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(**options))
    def check(case: Any) -> None:
        reached = len(answers) % 2 == 0
        if reached and "{name}" in operation.path:
            case.path_parameters = dict(known)
        answer = case.call(base_url=url)
        answers.append((reached, answer.status_code))
        assert answer.status_code < 500, (case.method, case.path, case.body, answer.text)

    check()
    return answers


@pytest.mark.long
def test_whatever_our_openapi_document_allows_is_no_server_error(server: tuple[str, psutil.Process]) -> None:
    url, _ = server
    operations = _operations(url)
    assert len(operations) >= 15
    answered = 0
    for operation in operations:
        answers = _asked(url, operation, 20)
        answered += len(answers)
        if "{name}" in operation.path:
            # Past the name: an inference is judged by its body, what is said of the model is said.
            reached = {status for known, status in answers if known}
            assert reached <= ({200, 400} if operation.path.endswith("/infer") else {200}), (operation.path, reached)
    assert answered > 150


def test_what_our_openapi_document_forbids_is_refused_and_no_server_error(server: tuple[str, psutil.Process]) -> None:
    from schemathesis import GenerationMode

    url, _ = server
    operations = [operation for operation in _operations(url) if operation.method.upper() == "POST"]
    assert {operation.path for operation in operations} >= {"/predict", "/invocations", "/v2/models/{name}/infer"}
    for operation in operations:
        statuses = {status for _, status in _asked(url, operation, 20, generation_mode=GenerationMode.NEGATIVE)}
        assert statuses & {400, 415, 422}, operation.path


def _hurtful(draw: random.Random) -> bytes:
    """A body of up to a megabyte that is expensive, malformed, or both."""
    deep = draw.randint(1000, 400_000)
    number = "9" * draw.randint(1, 300_000)
    text = "\\u0000" * draw.randint(1, 100_000)
    return draw.choice(
        [
            b"[" * deep,
            b"[" * deep + b"]" * deep,
            b'{"inputs":' * (deep // 10),
            b'{"a":' * (deep // 5) + b"1" + b"}" * (deep // 5),
            f'{{"material_id": "00000000", "rohwert_1_labormessung": {number}}}'.encode(),
            f'{{"material_id": "00000000", "rohwert_1_labormessung": 1e{number[:8]}}}'.encode(),
            f'{{"material_id": "{text}"}}'.encode(),
            f'{{"{text}": 1}}'.encode(),
            json.dumps([{f"field_{i}": i for i in range(200)}] * 100).encode(),
            json.dumps({"records": [GOOD] * 6000}).encode(),
            json.dumps({"inputs": [{"name": "features", "shape": [1, 2**63], "datatype": "FP32", "data": [1]}]}).encode(),
            json.dumps({"inputs": [{"name": "features", "shape": [0] * 1000, "datatype": "FP32", "data": []}]}).encode(),
            json.dumps({"inputs": [[[1.0] * 15] * 50] * 50}).encode(),
            json.dumps({"dataframe_split": {"columns": ["material_id"] * 5000, "data": [[1]] * 5000}}).encode(),
            json.dumps(GOOD).encode("utf-16"),
            json.dumps(GOOD).encode("utf-32"),
            '{"material_id": "ä"}'.encode("latin-1"),
            draw.randbytes(draw.randint(1, 200_000)),
            b"\x1f\x8b" + draw.randbytes(1000),
            b"\x00" * 999_999,
            b'"' + b"x" * 999_000,
            b"," * 500_000,
            ("material_id\n" + "00000000,\n" * 50_000).encode(),
            b'"' * 999_999,
        ]
    )


def test_bodies_that_are_made_to_hurt_cost_4xx_and_no_memory(server: tuple[str, psutil.Process]) -> None:
    url, process = server
    draw = random.Random(11)
    kinds = ("application/json", "text/csv", "")

    def round_of(count: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            for number in range(count):
                body, path = _hurtful(draw), POSTS[number % len(POSTS)]
                answer = client.post(path, content=body, headers={"Content-Type": draw.choice(kinds)})
                assert 400 <= answer.status_code < 500, (path, body[:100], answer.status_code, answer.text[:300])
                assert len(answer.content) < 20_000
                assert b"Traceback" not in answer.content

    round_of(70)
    before = process.memory_info().rss
    round_of(150)
    assert process.memory_info().rss - before < 60e6
    assert httpx.post(f"{url}/predict", json=GOOD).status_code == 200


def test_a_body_that_never_ends_or_is_cut_off_costs_nothing(server: tuple[str, psutil.Process]) -> None:
    url, _ = server
    place = urlsplit(url)
    for path in POSTS:
        for length, sent in (("999999", b'{"records":'), ("5", b"{}")):
            connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
            connection.putrequest("POST", path)
            connection.putheader("Content-Length", length)
            connection.endheaders(sent)
            connection.close()
    assert httpx.post(f"{url}/predict", json=GOOD).status_code == 200
    # This one alone, as soon as the server has noticed that the others are gone.
    deadline = time.monotonic() + 60
    while "serving_requests_in_progress 1.0" not in (metrics := httpx.get(f"{url}/metrics").text):
        assert time.monotonic() < deadline, metrics


# Many connections at the same time


@pytest.fixture
def many_files() -> Iterator[None]:
    """A thousand connections need as many descriptors, here and in the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def connections(url: str, count: int) -> Iterator[list[socket.socket]]:
    place = urlsplit(url)
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection((place.hostname or "", place.port or 0), 30)))
        yield opened


def _answered(connections: list[socket.socket]) -> int:
    """How many of them have an answer, or their end."""
    poll = select.poll()
    for each in connections:
        poll.register(each, select.POLLIN)
    return len(poll.poll(0))


@pytest.mark.long
def test_a_thousand_slow_ones_hold_up_no_probe_and_go(many_files: None) -> None:
    hurry = "from complex_system.http import connections as c; c.HEAD_SECONDS = c.BODY_SECONDS = 20.0"
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with started(hurry) as (url, process):
        before = process.memory_info().rss
        with connections(url, 900) as slow, contextlib.ExitStack() as stack:
            for number, each in enumerate(slow):
                # Half of them begin a head, the others a body: a small one, or one that may be large.
                length = (50_000, 900_000)[number % 4 // 2]
                each.sendall(head if number % 2 else head + b"Content-Length: %d\r\n\r\n[" % length)
            # All of these are taken before there are too many: heads that come later would be refused, and make room.
            assert httpx.get(f"{url}/livez", timeout=5).status_code == 200
            more = stack.enter_context(connections(url, 110))
            for each in more:
                each.sendall(head)
            held = [*slow, *more]
            assert httpx.post(f"{url}/predict", json=GOOD, timeout=5).status_code == 503
            for path in ("/livez", "/readyz", "/health", "/ping", "/v2/health/ready"):
                assert httpx.get(f"{url}{path}", timeout=5).status_code == 200
            assert _answered(held) == 0, "they waited until the slow ones were gone"
            assert process.memory_info().rss - before < 50e6
            for each in held:
                each.settimeout(60)
                answer = each.recv(1000)
                assert answer.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 503 ")), answer
        assert httpx.post(f"{url}/predict", json=GOOD, timeout=5).status_code == 200


@pytest.mark.long
async def test_a_thousand_medium_bodies_share_one_budget(many_files: None) -> None:
    body = json.dumps(GOOD).encode() + b" " * 900_000
    request = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    loop, count = asyncio.get_running_loop(), 990
    with started() as (url, process), connections(url, count) as opened:
        highest = before = process.memory_info().rss

        async def asked(connection: socket.socket) -> bytes:
            connection.setblocking(False)
            await loop.sock_sendall(connection, request)
            return await loop.sock_recv(connection, 1000)

        async def watch() -> None:
            nonlocal highest
            async with httpx.AsyncClient() as client:
                while True:
                    highest = max(highest, process.memory_info().rss)
                    assert (await client.get(f"{url}/livez", timeout=10)).status_code == 200
                    await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        answers = await asyncio.gather(*map(asked, opened))
        assert not watching.done()
        watching.cancel()
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}
        # They have 891 MB. The budget is 64 MiB, and each connection holds what was read before it had to wait.
        assert highest - before < 64e6 + count * 140_000 + 60e6, f"{(highest - before) / 1e6:.0f} MB"
