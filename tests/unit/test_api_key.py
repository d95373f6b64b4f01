"""The API key: every way to send it, and nothing else."""

from __future__ import annotations

import base64

import pytest

from complex_system.errors import UnauthorizedError
from complex_system.http.auth import ApiKey


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "s3cret"},
        {"authorization": "Bearer s3cret"},
        {"authorization": "bearer  s3cret "},
        {"x-api-key": "s3cret", "authorization": basic("me:wrong")},
    ],
)
def test_both_headers_are_accepted(headers: dict[str, str]) -> None:
    ApiKey("s3cret").require(headers)
    assert ApiKey("s3cret", basic=True).accepts(headers)


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
    for key in (ApiKey("s3cret"), ApiKey("s3cret", basic=True)):
        assert not key.accepts(headers)
        with pytest.raises(UnauthorizedError, match="X-API-Key"):
            key.require(headers)


def test_a_browser_may_send_the_key_as_password_where_that_is_allowed() -> None:
    for text in ("me:s3cret", ":s3cret"):
        assert ApiKey("s3cret", basic=True).accepts({"authorization": basic(text)})
        assert not ApiKey("s3cret").accepts({"authorization": basic(text)})


def test_without_a_key_every_request_passes() -> None:
    assert not ApiKey("")
    ApiKey("").require({})
    assert ApiKey("", basic=True).accepts({"authorization": "Basic ?"})
