"""What a browser can be made to send by somebody else's page, and what it is told."""

from __future__ import annotations

import socket
import time
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from complex_system.errors import UnsupportedMediaTypeError
from complex_system.http.auth import LINK_SECONDS, ApiKey
from complex_system.http.browsers import BrowserGuard, require_json
from complex_system.http.login import MAX_FORM, Login, login_link

KEY = ApiKey("s3cret")


async def hello(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} {await request.body()!r}")


def client(guard: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://127.0.0.1:8001")


def guarded(allowed_hosts: str = "") -> httpx.AsyncClient:
    return client(BrowserGuard(Starlette(routes=[Route("/", hello, methods=["GET", "POST", "PUT"])]), allowed_hosts))


OWN = [
    "localhost", "localhost:8001", "LOCALHOST.:1", "lab.localhost:80", "127.0.0.1:8001", "127.9.9.9", "[::1]:8001", "[::1]",
    "192.168.1.7:8001", "[fe80::1]", socket.gethostname(), f"{socket.gethostname()}:8001",
]  # fmt: skip
FOREIGN = [
    "evil.example", "evil.example:8001", "127.0.0.1.evil.example", "localhost.evil.example", "xlocalhost", "notlocalhost:8001",
    "1.2.3.4.5", "[::1.evil]", "0x7f.1", "127.1.example:80", "a@localhost", "evil.example:80:80", "\u00fc",
]  # fmt: skip


@pytest.mark.parametrize("host", OWN)
async def test_this_machine_is_asked_by_its_names_and_addresses(host: str) -> None:
    async with guarded() as http:
        for _ in range(2):  # as an unknown one, then as a known one
            assert (await http.post("/", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
async def test_a_name_that_somebody_else_has_bound_to_this_machine_is_refused(host: str) -> None:
    async with guarded() as http:
        for method in ("GET", "POST"):
            answer = await http.request(method, "/", headers={"Host": host.encode("latin-1")})
            assert answer.status_code == 421
            error = answer.json()["error"]
            assert error["code"] == "misdirected"
            assert "COMPLEX_SYSTEM_ALLOWED_HOSTS" in error["message"]


async def test_a_setting_names_further_hosts() -> None:
    async with guarded("plant.example.org, press") as http:
        for host in ("plant.example.org", "PLANT.example.org:8443", "press:8001"):
            assert (await http.get("/", headers={"Host": host})).status_code == 200
        assert (await http.get("/", headers={"Host": "example.org"})).status_code == 421
    async with guarded("*") as http:
        assert (await http.get("/", headers={"Host": "anything.example"})).status_code == 200


async def test_a_foreign_page_changes_nothing_and_programs_are_not_asked() -> None:
    async with guarded("plant.example.org") as http:
        for origin in (
            "http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8001", "https://127.0.0.1", "file://", "x",
            "http://plant.example.org.evil.example", "http://evil.example/127.0.0.1:8001", "http://[::1",
        ):  # fmt: skip
            for method in ("POST", "PUT"):
                answer = await http.request(method, "/", headers={"Origin": origin})
                assert answer.status_code == 403, origin
                assert answer.json()["error"]["code"] == "forbidden"
                assert (await http.get("/", headers={"Origin": origin})).status_code == 200
        for own in (
            "http://127.0.0.1:8001",
            "https://127.0.0.1:8001",
            "https://plant.example.org",
            "http://PLANT.example.org:1",
        ):
            assert (await http.post("/", headers={"Origin": own})).status_code == 200
        assert (await http.post("/")).status_code == 200


def test_json_is_called_json_or_nothing() -> None:
    for kind in (
        b"application/json",
        b"application/json; charset=utf-8",
        b"",
        b"application/octet-stream",
        b"application/x+json",
    ):
        require_json({b"content-type": kind})
    require_json({})
    for kind in (
        b"text/plain", b"text/plain;charset=UTF-8", b"Text/Plain", b"application/x-www-form-urlencoded",
        b" multipart/form-data; boundary=application/json",
    ):  # fmt: skip
        with pytest.raises(UnsupportedMediaTypeError, match="application/json"):
            require_json({b"content-type": kind})


# The login


@pytest.fixture
def login() -> Login:
    return Login(KEY, "Monitoring of <lab>")


def at(login: Login) -> httpx.AsyncClient:
    return client(BrowserGuard(Starlette(routes=login.routes)))


def session_of(answer: httpx.Response) -> str:
    return answer.cookies.get(KEY.cookie) or ""


async def test_who_knows_the_key_gets_a_session_that_is_not_the_key(login: Login) -> None:
    async with at(login) as http:
        form = await http.get("/login?next=/models%3Fa%3Db")
        assert form.status_code == 200
        assert "form-action 'self'" in form.headers["content-security-policy"]
        assert form.headers["referrer-policy"] != "no-referrer"  # it would make the form's origin `null`
        assert "Monitoring of &lt;lab&gt;" in form.text
        assert 'value="/models?a=b"' in form.text
        answer = await http.post("/login", data={"key": " s3cret ", "next": "/models?a=b"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/models?a=b")
        sent = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(sent.split("; "))
        assert "Secure" not in sent
        assert "s3cret" not in sent
        assert KEY.accepts({"cookie": f"{KEY.cookie}={session_of(answer)}"})
        by_proxy = await http.post("/login", data={"key": "s3cret"}, headers={"Origin": "https://127.0.0.1:8001"})
        assert "Secure" in by_proxy.headers["set-cookie"]
        left = await http.post("/logout")
        assert "Max-Age=0" in left.headers["set-cookie"]


async def test_who_does_not_gets_the_form_again(login: Login) -> None:
    async with at(login) as http:
        for content in (
            b"",
            b"key=",
            b"key=S3cret",
            b"key=s3cret2",
            b"next=/",
            b"\xff=%ff",
            b"key=s3cret&" + b"x" * MAX_FORM,
        ):
            answer = await http.post("/login", content=content)
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers
            assert "This is not the key" in answer.text
        assert (
            await http.post("/login", data={"key": "s3cret"}, headers={"Origin": "http://evil.example"})
        ).status_code == 403


@pytest.mark.parametrize(
    "place", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "/a\r\nset-cookie: b=c", ""]
)
async def test_the_login_leads_to_no_other_host(login: Login, place: str) -> None:
    async with at(login) as http:
        answer = await http.post("/login", data={"key": "s3cret", "next": place})
        assert answer.headers["location"] == "/"
        assert answer.headers.get_list("set-cookie") == [answer.headers["set-cookie"]]
        assert 'value="/"' in (await http.get("/login", params={"next": place})).text


async def test_a_link_logs_in_once_and_for_a_day(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    link = login_link("http://127.0.0.1:8001/", KEY)
    assert link.startswith("http://127.0.0.1:8001/login?token=")
    assert "s3cret" not in link
    now = time.time()
    async with at(login) as http:
        assert session_of(await http.head(link)) == ""  # what looks at links does not use them up
        answer = await http.get(link)
        assert answer.status_code == 303
        assert KEY.accepts({"cookie": f"{KEY.cookie}={session_of(answer)}"})
        again = await http.get(link)
        assert again.status_code == 401
        assert "used before" in again.text
        for wrong in (link[:-1], KEY.token("session"), login_link("http://127.0.0.1:8001", ApiKey("another"))):
            assert (await http.get("/login", params={"token": wrong.rpartition("=")[2]})).status_code == 401
        late = login_link("", KEY)
        monkeypatch.setattr("time.time", lambda: now + LINK_SECONDS + 5)
        assert (await http.get(late)).status_code == 401
