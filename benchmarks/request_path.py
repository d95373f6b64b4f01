"""The functions that one request passes, counted: ``python -m benchmarks.request_path [-v]``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.model import train
from benchmarks.serve import make_ours
from benchmarks.servers import Server

PACKAGES = ("complex_system", "starlette", "fastapi")


def path_of(app: Any, path: str, body: bytes) -> list[tuple[str, str, str]]:
    """Return package, module and function of every call that a POST request makes, in order."""
    passed: list[tuple[str, str, str]] = []
    seen: set[FrameType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        # A coroutine that continues after an await enters its frame again.
        if event == "call" and package in PACKAGES and frame not in seen:
            seen.add(frame)
            passed.append((package, module, frame.f_code.co_qualname))

    asyncio.run(_ask(app, path, body))  # what is made at the first request is not part of the path
    sys.setprofile(note)
    try:
        status = asyncio.run(_ask(app, path, body))
    finally:
        sys.setprofile(None)
    if status != 200:
        raise SystemExit(f"{path} answered {status}")
    return passed


async def _ask(app: Any, path: str, body: bytes) -> int:
    headers = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "http_version": "1.1",
        "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    return status


def main() -> None:
    """Prints the calls and files of each package for one record over each protocol."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request_path", description=__doc__)
    parser.add_argument("-v", action="store_true", help="list the functions, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        train(Path(place))
        app = asyncio.run(make_ours(Path(place)))
        for name, path in (("ours", "/predict"), ("ours, V2", "/v2/models/champion/infer")):
            passed = path_of(app, path, Server(name, 0, path).body(1))
            for package in PACKAGES:
                calls = [each for each in passed if each[0] == package]
                functions, files = len(set(calls)), len({each[1] for each in calls})
                print(f"{path}: {len(calls)} calls of {functions} functions in {files} files of {package}")
            if given.v:
                for _, module, function in passed:
                    print(f"    {module}: {function}")


if __name__ == "__main__":
    main()
