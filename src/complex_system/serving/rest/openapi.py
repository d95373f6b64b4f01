"""The documentation at ``/docs``: the OpenAPI document as the routes really are, and Swagger UI from files of ours.

A plant has no Internet, so the page and all that it loads come from this server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from complex_system.domain.dataset import Dataset
from complex_system.serving.models.manager import CHAMPION
from complex_system.serving.rest.calls import ServingRoute
from complex_system.serving.rest.mlflow_scoring import scoring_body
from complex_system.serving.rest.oip_description import inference_body
from complex_system.serving.rest.schemas import answers, components, example_record, request_body
from complex_system.serving.rest.status_schemas import status_components

ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
"""All files that the page loads."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'self'"
)
_NAMES = {
    "name": "Registered name of the model, or `champion`; `GET /models` lists them.",
    "version": "A version of that model, or an alias of it.",
}


def add_documentation(app: FastAPI, dataset: Dataset, secured: bool) -> None:
    """Adds ``/docs`` and the OpenAPI document.

    Args:
        app: Made without a page of FastAPI's, which would load its files from elsewhere.
        dataset: What the requests look like.
        secured: Whether a key is asked for.
    """
    # The package brings the files of Swagger UI 5; its code is not used.
    folder = Path(str(files("fastapi_offline"))) / "static"

    async def page(request: Request) -> Response:
        # Relative, so that they hold behind a proxy that serves us below a path of its own.
        html = get_swagger_ui_html(
            openapi_url="./openapi.json",
            title=app.title,
            swagger_js_url=f"./docs/{ASSETS[0]}",
            swagger_css_url=f"./docs/{ASSETS[1]}",
            swagger_favicon_url=f"./docs/{ASSETS[2]}",
            swagger_ui_parameters={"validatorUrl": None},
        )
        html.headers["content-security-policy"] = _POLICY
        return html

    def asset(name: str) -> Any:
        async def send(request: Request) -> Response:
            return FileResponse(folder / name, headers={"cache-control": "max-age=3600"})

        return send

    app.add_route("/docs", page, include_in_schema=False)
    for name in ASSETS:
        app.add_route(f"/docs/{name}", asset(name), include_in_schema=False)

    documented = ""

    def openapi() -> dict[str, Any]:
        nonlocal documented
        # Requests look as the champion takes them, which may still be of an older declaration.
        current = app.state.gate.engine.holder.current
        own = current.pipeline.dataset if current else dataset
        if app.openapi_schema is None or documented != own.version:
            app.openapi_schema, documented = _document(app, own, dataset, secured), own.version
        _name_the_champion(app, dataset, app.openapi_schema)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def broker_section(dataset: Dataset, subject: str, columns: str) -> str:
    """What the description says of the calls by the broker, with programs that run when they are pasted."""
    records = [example_record(dataset, position) for position in (0, 1)]
    listed = ",\n    ".join(repr(record) for record in records)
    return _BROKER.format(subject=subject, columns=columns, records=listed)


def _document(app: FastAPI, dataset: Dataset, present: Dataset, secured: bool) -> dict[str, Any]:
    description = dataset.description
    if dataset.version != present.version:
        description += _OLDER.format(own=dataset.version, present=present.version)
    if subjects := getattr(app.state, "subjects", None):
        description += broker_section(dataset, *subjects)
    document = get_openapi(title=app.title, version=app.version, description=description, routes=app.routes)
    for path, body in _BODIES.items():
        document["paths"][path]["post"]["requestBody"] = body(dataset)
    parts = document.setdefault("components", {})
    # FastAPI announces a check of the parameters that our routes do not make.
    schemas = {name: each for name, each in parts.get("schemas", {}).items() if not name.endswith("ValidationError")}
    parts["schemas"] = schemas | components(dataset) | status_components()
    if secured:
        parts["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
    for route in app.routes:
        if not isinstance(route, ServingRoute) or not route.include_in_schema:
            continue
        for method in route.methods:
            operation = document["paths"][route.path_format][method.lower()]
            responses = operation["responses"]
            if "HTTPValidationError" in json.dumps(responses.get("422", "")):
                del responses["422"]
            if secured and route.secured:
                operation["security"] = [{"key": []}]
                responses |= answers({401: route.error_schema})
            for parameter in operation.get("parameters", ()):
                parameter["description"] = _NAMES[parameter["name"]]
    return document


def _name_the_champion(app: FastAPI, dataset: Dataset, document: dict[str, Any]) -> None:
    """Writes names and versions that work at the moment into the examples of the parameters."""
    current = app.state.gate.engine.holder.current
    name, version = (current.info.name, current.info.version) if current else (f"{dataset.name}-lightgbm", "1")
    for path, operations in document["paths"].items():
        if "{name}" not in path:
            continue
        examples = {"name": name if "{version}" in path else CHAMPION, "version": version}
        for operation in operations.values():
            for parameter in operation["parameters"]:
                parameter["example"] = examples[parameter["name"]]


_BODIES: dict[str, Callable[[Dataset], dict[str, Any]]] = {
    "/predict": request_body,
    "/invocations": scoring_body,
    "/v2/models/{name}/infer": inference_body,
    "/v2/models/{name}/versions/{version}/infer": inference_body,
}
"""What a request looks like, by path."""
_OLDER = """

**The declaration of the data set has changed.** The model that answers is of pipeline version `{own}`, the present one is
`{present}`: requests are judged, and this page describes them, as that older version declares. Columns that only the new declaration
has may be sent and are not used. This ends with the first champion of the new version.
"""
_BROKER = """

## By the broker

The same models answer on NATS. A message is a FastIoT `Thing`: a mapping in msgpack whose `value` is the request or the answer.
A value with `__error_occured__` is an error, with `error_msg` and `error_code`. Where the broker asks for an account, put it into
the address: `nats://user:password@host:4222`.

`{subject}` takes a list of raw records and answers a list of rows, one a record in the same order:

```python
# pip install nats-py msgpack
import asyncio, sys
from datetime import datetime, timezone

import msgpack, nats

RECORDS = [
    {records},
]


async def main():
    client = await nats.connect(*sys.argv[1:] or ["nats://localhost:4222"])
    thing = {{"machine": "example", "name": "", "value": RECORDS, "timestamp": datetime.now(timezone.utc)}}
    reply = await client.request("{subject}", msgpack.packb(thing, datetime=True), timeout=10)
    print(msgpack.unpackb(reply.data, timestamp=3)["value"])
    await client.close()


asyncio.run(main())
```

`{columns}` takes a page of raw columns as Arrow IPC stream bytes, for many records at a time, and answers a page with the column
`prediction` (and `_id`, where it was given). Model, version and pipeline version are in the metadata of its schema:

```python
# pip install nats-py msgpack pyarrow
import asyncio, sys
from datetime import datetime, timezone

import msgpack, nats
import pyarrow as pa

RECORDS = [
    {records},
]


async def main():
    table = pa.Table.from_pylist(RECORDS)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    client = await nats.connect(*sys.argv[1:] or ["nats://localhost:4222"])
    page = sink.getvalue().to_pybytes()
    thing = {{"machine": "example", "name": "", "value": page, "timestamp": datetime.now(timezone.utc)}}
    reply = await client.request("{columns}", msgpack.packb(thing, datetime=True), timeout=10)
    value = msgpack.unpackb(reply.data, timestamp=3)["value"]
    if not isinstance(value, bytes):
        raise SystemExit(value["error_msg"])
    with pa.ipc.open_stream(value) as reader:
        print(reader.read_all().to_pylist())
    await client.close()


asyncio.run(main())
```
"""
