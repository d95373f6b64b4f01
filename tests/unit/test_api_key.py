"""The API key: every way to send it and what stands for it in a browser, and nothing else."""

from __future__ import annotations

import base64
import time

import pytest

from complex_system.errors import UnauthorizedError
from complex_system.http.auth import SESSION_SECONDS, ApiKey


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "s3cret"},
        {"authorization": "Bearer s3cret"},
        {"authorization": "bearer  s3cret "},
        {"x-api-key": "s3cret", "authorization": basic("me:wrong")},
        {"authorization": basic("me:s3cret")},
        {"authorization": basic(":s3cret")},
    ],
)
def test_every_header_is_accepted(headers: dict[str, str]) -> None:
    ApiKey("s3cret").require(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "s3cre"},
        {"x-api-key": "s3cret2"},
        {"x-api-key": "ü"},
        {"authorization": "s3cret"},
        {"authorization": "Token s3cret"},
        {"authorization": basic("me:s3cret2")},
        {"authorization": "Basic s3cret"},
        {"authorization": f"Basic {base64.b64encode(bytes([255])).decode()}"},
    ],
)
def test_everything_else_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(UnauthorizedError, match="X-API-Key"):
        ApiKey("s3cret").require(headers)


def cookie(key: ApiKey, token: str) -> dict[str, str]:
    return {"cookie": f"other=1; {key.cookie}={token}; last=2"}


def test_a_session_stands_for_the_key_until_it_ends_or_the_key_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    key, another = ApiKey("s3cret"), ApiKey("s3cret2")
    token = key.token("session")
    assert "s3cret" not in token
    assert token != key.token("session")
    assert ApiKey("s3cret").accepts(cookie(key, token))  # of another service of the deployment
    assert not another.accepts(cookie(another, token))
    assert key.cookie != another.cookie
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + SESSION_SECONDS - 5)
    assert key.accepts(cookie(key, token))
    monkeypatch.setattr(time, "time", lambda: now + SESSION_SECONDS + 5)
    assert not key.accepts(cookie(key, token))


def test_nothing_else_in_a_cookie_passes() -> None:
    key = ApiKey("s3cret")
    end, nonce, signature = key.token("session").split(".")
    changed = [
        "", ".", "..", "s3cret", f"{int(end) + 1}.{nonce}.{signature}", f"{end}.{nonce[:-1]}0x.{signature}",
        f"{end}.{nonce}.{signature[:-1]}", f"{end}.{nonce}.", key.token("link"), "nan.x.y", f"inf.{nonce}.{signature}",
    ]  # fmt: skip
    assert [each for each in changed if key.accepts(cookie(key, each))] == []
    for text in ("", ";;;", "=", "\x00", f"{key.cookie}", "a=b; " * 10_000):
        assert not key.accepts({"cookie": text})
    assert not ApiKey("").verified("session", ApiKey("").token("session"))


def test_without_a_key_every_request_passes() -> None:
    assert not ApiKey("")
    ApiKey("").require({})
    assert ApiKey("").accepts({"authorization": "Basic ?"})
