"""The documentation: its examples work when they are pasted, its schemas are those of the answers, and its page needs no Internet."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from jsonschema import Draft202012Validator

from complex_system.domain.dataset import Dataset
from complex_system.serving.rest.openapi import ASSETS
from complex_system.tracking.model_files import SAMPLE_FILE
from models import ManyModels, rest_server
from monitoring_page.browser import chromium
from trainings import quick_sample

DATASET = Dataset.load()
KEY = {"X-API-Key": "plant-7"}
OPEN = {
    "/livez",
    "/readyz",
    "/health/live",
    "/health/ready",
    "/ping",
    "/health",
    "/v2/health/live",
    "/v2/health/ready",
}


def source() -> ManyModels:
    source = ManyModels(DATASET)
    source.files = {SAMPLE_FILE: quick_sample()}
    source.publish("lab-lightgbm", 1.0)
    source.publish("lab-pytorch", 2.0, champion=True)
    return source


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with rest_server(DATASET, source()) as (_, client):
        yield client


async def document_of(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get("/openapi.json")).json()  # type: ignore[no-any-return]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def filled(path: str, operation: dict[str, Any]) -> str:
    """The path with its parameters' examples."""
    for parameter in operation.get("parameters", []):
        path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
    return path


def contents(operation: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The examples of a request's body."""
    for kind, content in operation.get("requestBody", {"content": {"": {"example": None}}})["content"].items():
        yield from ((kind, each["value"]) for each in content.get("examples", {}).values())
        if "example" in content:
            yield kind, content["example"]


async def test_every_example_of_every_call_works_and_is_answered_as_described(client: httpx.AsyncClient) -> None:
    document = await document_of(client)
    seen = 0
    for path, method, operation in operations(document):
        for kind, example in contents(operation):
            body = {"json": example} if kind == "application/json" else {"content": example}
            answer = await client.request(
                method, filled(path, operation), headers={"Content-Type": kind} if kind else {}, **body
            )
            assert answer.status_code == 200, (path, answer.text)
            described = operation["responses"]["200"].get("content", {})
            if described:
                [(media, content)] = described.items()
                assert answer.headers["content-type"].startswith(media), path
                assert content["schema"], path
            if "application/json" in described:
                schema = {**described["application/json"]["schema"], "components": document["components"]}
                Draft202012Validator(schema).validate(answer.json())
            seen += 1
    assert seen >= 25
    assert document["paths"]["/metrics"]["get"]["responses"]["200"]["content"] == {
        "text/plain": {"schema": {"type": "string"}}
    }


async def test_the_commands_of_the_written_documentation_work(client: httpx.AsyncClient) -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    commands = re.findall(r"^curl .*?'$", text, re.MULTILINE | re.DOTALL)
    assert len(commands) >= 3
    for command in commands:
        parts = shlex.split(command)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl sends by itself
        headers |= dict(parts[i + 1].split(": ") for i, part in enumerate(parts) if part == "-H")
        [path] = [part.removeprefix("localhost:8001") for part in parts if part.startswith("localhost:8001/")]
        answer = await client.post(path, content=parts[parts.index("-d") + 1], headers=headers)
        assert answer.status_code == 200, (command, answer.text)


async def test_the_examples_name_a_model_that_is_there_now(client: httpx.AsyncClient) -> None:
    path = "/v2/models/{name}/versions/{version}/infer"
    async with rest_server(DATASET, models := ManyModels(DATASET)) as (manager, own):
        assert filled(path, (await document_of(own))["paths"][path]["post"]) == "/v2/models/lab-lightgbm/versions/1/infer"
        models.publish("lab-tensorflow", 1.0)
        models.publish("lab-tensorflow", 1.0, champion=True)
        await manager.refresh()
        document = await document_of(own)
        assert filled(path, document["paths"][path]["post"]) == "/v2/models/lab-tensorflow/versions/2/infer"
        assert filled("/v2/models/{name}", document["paths"]["/v2/models/{name}"]["get"]) == "/v2/models/champion"


async def test_only_what_can_happen_is_described(client: httpx.AsyncClient) -> None:
    async with rest_server(DATASET, source(), api_key=KEY["X-API-Key"]) as (_, locked):
        for own, secured in ((client, False), (locked, True)):
            document = (await own.get("/openapi.json", headers=KEY if secured else {})).json()
            assert "security" not in document
            assert not [name for name in document["components"]["schemas"] if "Validation" in name]
            for path, method, operation in operations(document):
                assert ("422" in operation["responses"]) == (path in ("/predict", "/explain", "/suggest"))
                asked = secured and path not in OPEN
                assert (operation.get("security"), "401" in operation["responses"]) == (
                    [{"key": []}] if asked else None,
                    asked,
                )
                answer = await own.request(method, filled(path, operation), content=b"")
                assert (answer.status_code == 401) == asked, path
                if asked:
                    [described] = operation["responses"]["401"]["content"].values()
                    schema = {**described["schema"], "components": document["components"]}
                    Draft202012Validator(schema).validate(answer.json())


async def test_the_page_has_its_files_and_nothing_else_from_here(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert not re.findall(r"(?:src|href)=[\"'](?:https?:)?//", page.text)
    for name in ASSETS:
        answer = await client.get(f"/docs/{name}")
        assert (answer.status_code, name in page.text) == (200, True)
    for path in ("/docs/redoc.standalone.js", "/docs/..%2fcore.py", "/docs/%2e%2e/core.py", "/redoc"):
        assert (await client.get(path)).status_code == 404, path


@pytest.mark.parametrize("key", ["", "plant-7"])
async def test_command_and_program_of_predict_work_when_they_are_pasted(key: str) -> None:
    async with rest_server(DATASET, source(), api_key=key) as (_, own):
        document = (await own.get("/openapi.json", headers={"X-API-Key": key} if key else {})).json()
        text = document["paths"]["/predict"]["post"]["description"].replace("...", key)
        [command], [program] = (re.findall(f"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("", "python"))
        assert program.count("\n") == 10
        for argv in (["bash", "-c", command], [sys.executable, "-c", program]):
            done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout)
            assert (found["predictions"] if isinstance(found, dict) else found) == [5.5]


async def test_the_page_renders_and_asks_no_other_host(client: httpx.AsyncClient) -> None:
    from playwright.async_api import async_playwright

    count = len(list(operations(await document_of(client))))
    host = urlsplit(str(client.base_url)).netloc
    asked: list[str] = []
    faults: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            page = await browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(60_000)
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
            await page.goto(str(client.base_url.join("/docs")))
            await page.wait_for_function(f"document.querySelectorAll('.opblock').length >= {count}")
            assert await page.locator(".opblock").count() == count
            assert "/v2/models/{name}/versions/{version}/infer" in (await page.inner_text("body")).replace("\u200b", "")
            # The page begins with the form, which holds an example and sends it.
            block = page.locator(".opblock").first
            assert await block.get_attribute("id") == "operations-predict-predict"
            box = await block.locator(".execute").bounding_box()
            assert box is not None
            assert box["y"] < 900
            await block.locator(".execute").click()
            status = block.locator(".live-responses-table tr.response td.response-col_status").first
            assert (await status.inner_text()).split()[0] == "200"
            assert '"predictions"' in await block.locator(".live-responses-table").inner_text()
            await page.set_viewport_size({"width": 390, "height": 844})
            assert await page.evaluate("document.documentElement.scrollWidth") == 390
        finally:
            await browser.close()
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {host}
    assert faults == []
