"""A serving service asked as a client would ask it: a record, its prediction over REST, and the command that repeats it."""

from __future__ import annotations

import json
import shlex
import time
from contextlib import aclosing

import httpx
import msgspec

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory, has_known_function
from complex_system.domain.records import Record
from complex_system.errors import ComplexSystemError
from complex_system.local.state import Prediction
from complex_system.messaging.clients import DatabaseClient, Requester
from complex_system.protocol.serving import ORIGIN_HEADER
from complex_system.serving.requests.examples import example_record
from complex_system.training.data import SampleCollector
from complex_system.training.split import Part

LINE = 76
"""Columns that a line of the shown command has at most."""
API_KEY = "X-API-Key"
OWN = {ORIGIN_HEADER.decode(): "own"}
"""Says that this program asks, and not one of the deployment's clients."""
_LOOKED_AT = 500
_CHOSEN_FROM = 20


class ProbeError(ComplexSystemError):
    """A serving service did not answer as it should; the message says what came instead."""

    code = "probe_failed"


class ServedModel(msgspec.Struct):
    """The model that a serving service has loaded."""

    name: str
    version: str


class _Status(msgspec.Struct):
    model: ServedModel | None


class _Reply(msgspec.Struct):
    predictions: tuple[float]
    model: ServedModel


def sample_record(dataset: Dataset, seed: int) -> Record:
    """Return a complete record without its target, with values short enough to be read and typed.

    For the lab's data set it is a new lab record, so that its truth is known, and for others the declaration's example.
    """
    if not has_known_function(dataset):
        return example_record(dataset)
    record = Laboratory(seed=seed + 1_000_003).complete_record()
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in record.items()}


async def stored_sample(dataset: Dataset, requester: Requester) -> tuple[Record, float] | None:
    """Return a stored record of the hold-out part without its target, and the target's true value; None without one.

    Among the first ones by key it is one with the fewest missing values.
    """
    database, collector = DatabaseClient(requester), SampleCollector(dataset, [Part.HOLDOUT], keys=_CHOSEN_FROM)
    pages = database.processed_pages(
        collector.columns, labelled=True, version=dataset.version, limit=_LOOKED_AT, raw=collector.raw
    )
    async with aclosing(pages):  # type: ignore[type-var]
        async for page in pages:
            collector.add(page.table)
            if collector.is_by_key and collector.count() >= _CHOSEN_FROM:
                break
    keys = collector.keys(Part.HOLDOUT)
    records: list[Record] = (await database.raw_by_keys(keys)).to_pylist() if keys else []
    labelled = [record for record in records if record[dataset.target] is not None]
    if not labelled:
        return None
    record = min(labelled, key=lambda each: sum(value is None for value in each.values()))
    return {**record, dataset.target: None}, float(record[dataset.target])


def rest_client(api_key: str) -> httpx.AsyncClient:
    """Return a client for the serving services; it sends the API key where one is set."""
    return httpx.AsyncClient(timeout=10.0, trust_env=False, headers={**OWN, **({API_KEY: api_key} if api_key else {})})


async def served_model(client: httpx.AsyncClient, url: str) -> ServedModel | None:
    """Return the model that is served there, or None while there is none or the server does not answer yet."""
    try:
        return msgspec.json.decode((await client.get(f"{url}/model")).content, type=_Status).model
    except (httpx.HTTPError, msgspec.DecodeError):
        return None


async def predict(
    client: httpx.AsyncClient, url: str, record: Record, truth: float | None = None, *, key_in_shell: str = ""
) -> Prediction:
    """Return one prediction over REST.

    Args:
        client: Sends the request.
        url: Address of the serving service.
        record: The record without its target.
        truth: The target, where it is known.
        key_in_shell: How the shown command gets the API key, where one is set.

    Raises:
        ProbeError: The server does not answer, or not with one finite number.
    """
    began = time.perf_counter()
    body = {name: value for name, value in record.items() if value is not None}
    try:
        response = await client.post(f"{url}/predict", json={"records": [body]})
        response.raise_for_status()
        reply = msgspec.json.decode(response.content, type=_Reply)
    except httpx.HTTPStatusError:
        raise ProbeError(f"POST {url}/predict answered {response.status_code}: {response.text[:300]}") from None
    except httpx.HTTPError as error:
        raise ProbeError(f"POST {url}/predict: {type(error).__name__} {error}".rstrip()) from error
    except msgspec.DecodeError as error:
        raise ProbeError(f"POST {url}/predict answered without one prediction: {response.text[:300]}") from error
    return Prediction(
        value=reply.predictions[0],
        truth=truth,
        model=reply.model.name,
        version=reply.model.version,
        milliseconds=1000 * (time.perf_counter() - began),
        curl=curl_lines(f"{url}/predict", body, key_in_shell if API_KEY in client.headers else ""),
    )


def curl_lines(url: str, record: Record, key_in_shell: str = "") -> tuple[str, ...]:
    """Return the command that asks for that prediction, in short lines that a shell takes as they stand.

    Args:
        url: Where to ask.
        record: What to predict.
        key_in_shell: How the shell gets the API key, which is not for screens and logs; empty where none is set.
    """
    fields = [
        f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}" for name, value in record.items()
    ]
    lines, line = [], ""
    for i, text in enumerate(fields):
        piece = text + ("," if i < len(fields) - 1 else "")
        if line and len(line) + 1 + len(piece) > LINE - 2:
            lines.append(line)
            line = ""
        line = f"{line} {piece}" if line else piece
    lines.append(line)
    payload = '{"records": [{\n  ' + "\n  ".join(lines) + "\n}]}"
    key = f' \\\n  -H "{API_KEY}: {key_in_shell}"' if key_in_shell else ""
    command = f"curl -s {shlex.quote(url)}{key} \\\n  -H 'Content-Type: application/json' -d {shlex.quote(payload)}"
    return tuple(command.split("\n"))
