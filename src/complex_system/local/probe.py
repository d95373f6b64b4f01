"""Asks the serving services as a client would, and shows how to repeat it."""

from __future__ import annotations

import json
import math
import shlex
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import ComplexSystemError
from complex_system.local.state import Prediction
from complex_system.messaging.clients import Asks, DatabaseClient, DocumentClient
from complex_system.serving.rest.schemas import example_record
from complex_system.training.data import Part, parts_of

LINE = 76
"""Columns that a line of the shown command has at most."""
API_KEY = "X-API-Key"
_LOOKED_AT = 500
_CHOSEN_FROM = 20


class ProbeError(ComplexSystemError):
    """A serving service did not answer as it should; the sentence says what came instead."""

    code = "probe_failed"


@dataclass(frozen=True)
class Served:
    """The model that a serving service has loaded."""

    name: str
    version: str


def probe_record(dataset: Dataset, seed: int) -> Record:
    """A complete record without its target, with values short enough to be read and typed.

    It is a lab record where the data set is the lab's, so that its truth is known, and else the declaration's example.
    """
    record = Laboratory(seed=seed + 1_000_003).complete_record()
    if set(record) - {ID} != set(dataset.raw_names):
        return example_record(dataset)
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in record.items()}


def rest_client(api_key: str) -> httpx.AsyncClient:
    """A client for the serving services; it sends the API key where one is set."""
    headers = {API_KEY: api_key} if api_key else {}
    return httpx.AsyncClient(timeout=10.0, trust_env=False, headers=headers)


async def served_model(client: httpx.AsyncClient, url: str) -> Served | None:
    """The model that is served there, or None while there is none or the server does not answer yet."""
    try:
        response = await client.get(f"{url}/model")
        body = response.json()
        model = body.get("model") or {}
        return Served(str(model["name"]), str(model["version"])) if model else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return None


async def stored_probe(dataset: Dataset, asker: Asks) -> tuple[Record, float] | None:
    """A stored record of the hold-out part without its target, and the target's true value; None where there is none.

    Of the first ones by key it is one with the fewest missing values.
    """
    keys: list[str] = []
    pages = DatabaseClient(asker).processed_pages([ID], labelled=True, version=dataset.version, limit=_LOOKED_AT)
    async with aclosing(pages):  # type: ignore[type-var]
        async for page in pages:
            found = page.table.column(ID).to_pylist()
            keys += [key for key, part in zip(found, parts_of(found), strict=True) if part == Part.HOLDOUT]
            if len(keys) >= _CHOSEN_FROM:
                break
    if not keys:
        return None
    records: list[Record] = (await DocumentClient(asker).raw_by_keys(keys[:_CHOSEN_FROM])).to_pylist()
    labelled = [record for record in records if record[dataset.target] is not None]
    if not labelled:
        return None
    record = min(labelled, key=lambda each: sum(value is None for value in each.values()))
    return {**record, dataset.target: None}, float(record[dataset.target])


async def predict(client: httpx.AsyncClient, url: str, record: Record, truth: float | None = None) -> Prediction:
    """One prediction by REST.

    Args:
        client: Asks.
        url: Of the serving service.
        record: Without its target.
        truth: The target, where it is known.

    Raises:
        ProbeError: The server does not answer, or not with one finite number.
    """
    began = time.perf_counter()
    body = {name: value for name, value in record.items() if value is not None}
    try:
        response = await client.post(f"{url}/predict", json={"records": [body]})
    except httpx.HTTPError as error:
        raise ProbeError(f"POST {url}/predict: {type(error).__name__} {error}".rstrip()) from error
    if response.status_code != httpx.codes.OK:
        raise ProbeError(f"POST {url}/predict answered {response.status_code}: {response.text[:300]}")
    content: dict[str, Any] = response.json()
    predictions = content.get("predictions")
    if not isinstance(predictions, list) or len(predictions) != 1 or not math.isfinite(predictions[0]):
        raise ProbeError(f"POST {url}/predict answered with no finite prediction: {response.text[:300]}")
    return Prediction(
        value=float(predictions[0]),
        truth=truth,
        model=str(content["model"]["name"]),
        version=str(content["model"]["version"]),
        milliseconds=1000 * (time.perf_counter() - began),
        curl=curl_lines(f"{url}/predict", body, secured=API_KEY in client.headers),
    )


def curl_lines(url: str, record: Record, *, secured: bool = False) -> tuple[str, ...]:
    """The command that asks for that prediction, in short lines that a shell takes as they stand.

    Where an API key is needed, the command takes it from the variable ``COMPLEX_SYSTEM_API_KEY``: it is not for screens and logs.
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
    key = f' \\\n  -H "{API_KEY}: $COMPLEX_SYSTEM_API_KEY"' if secured else ""
    command = f"curl -s {shlex.quote(url)}{key} \\\n  -H 'Content-Type: application/json' -d {shlex.quote(payload)}"
    return tuple(command.split("\n"))
