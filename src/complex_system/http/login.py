"""The page where a browser gives the API key and gets the cookie of a session; nothing is kept on the server."""

from __future__ import annotations

import html
import logging
import re
from collections import OrderedDict
from importlib import resources
from string import Template
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from complex_system.http.auth import SESSION_SECONDS, ApiKey
from complex_system.http.responses import PAGE_HEADERS

log = logging.getLogger(__name__)

LOGIN = "/login"
MAX_FORM = 10_000
"""Bytes of a form at most; ours has a key and a path. What is longer counts as empty."""
MAX_USED = 10_000
"""Used links that are remembered until they would end anyway."""


def login_link(url: str, key: ApiKey) -> str:
    """Return a link that logs a browser in at the server of that address, once; for the screen of who started it."""
    return f"{url.rstrip('/')}{LOGIN}?token={key.token('link')}"


def login_address(path: str, query: str = "") -> str:
    """Return the address of the form that leads back to a page."""
    return f"{LOGIN}?next={quote(path + ('?' + query if query else ''), safe='/')}"


class Login:
    """The routes ``/login`` and ``/logout`` of one server."""

    def __init__(self, key: ApiKey, title: str) -> None:
        """Make the routes.

        Args:
            key: What a browser must know.
            title: Name of the server on the page.
        """
        self._key = key
        self._title = title
        self._used: OrderedDict[str, None] = OrderedDict()
        self.routes = [
            Route(LOGIN, self._form, methods=["GET"]),
            Route(LOGIN, self._submitted, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
        ]

    async def _form(self, request: Request) -> Response:
        """Show the form, or follow a link that logs in."""
        token = request.query_params.get("token")
        following = _local(request.query_params.get("next", "/"))
        if token is None or request.method != "GET":
            return self._page(following)
        if not self._use(token):
            return self._page(following, "This link was used before, or is too old. Enter the key instead.", 401)
        return self._welcome(request, following)

    async def _submitted(self, request: Request) -> Response:
        """Check the key that was entered."""
        fields = dict(parse_qsl((await _form_of(request)).decode("utf-8", "replace")))
        following = _local(fields.get("next", "/"))
        if not self._key.is_key(fields.get("key", "").strip()):
            log.warning("A wrong API key was entered at %s, from %s", LOGIN, request.client.host if request.client else "?")
            return self._page(following, "This is not the key.", 401)
        return self._welcome(request, following)

    async def _logout(self, _: Request) -> Response:
        """Forget the session in this browser."""
        answer = RedirectResponse(LOGIN, 303, dict(PAGE_HEADERS))
        answer.delete_cookie(self._key.cookie, httponly=True, samesite="strict")
        return answer

    def _use(self, token: str) -> bool:
        """Return whether a link is good, and was not used at this server before."""
        if not self._key.verified("link", token) or token in self._used:
            return False
        self._used[token] = None
        if len(self._used) > MAX_USED:
            self._used.popitem(last=False)
        return True

    def _welcome(self, request: Request, following: str) -> Response:
        answer = RedirectResponse(following, 303, dict(PAGE_HEADERS))
        # Behind a proxy with TLS only the browser's own Origin tells that it came by https.
        secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https:")
        answer.set_cookie(
            self._key.cookie, self._key.token("session"), SESSION_SECONDS, httponly=True, samesite="strict", secure=secure
        )
        return answer

    def _page(self, following: str, problem: str = "", status: int = 200) -> Response:
        text = Template(resources.files(__package__).joinpath("login.html").read_text("utf-8"))
        shown = text.substitute(title=html.escape(self._title), next=html.escape(following), problem=html.escape(problem))
        return Response(shown, status, {**PAGE_HEADERS, "cache-control": "no-store"}, "text/html")


def _local(address: str) -> str:
    """Return an address if it cannot lead to another host, as two slashes of any kind at its beginning would, else the root."""
    return address if re.fullmatch(r"/(?![/\\])[^\\\x00-\x20]*", address) else "/"


async def _form_of(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            return b""
    return body
