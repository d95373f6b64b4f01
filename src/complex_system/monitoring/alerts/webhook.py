"""Posts alerts to an address outside: as JSON, in order, each repeated until the receiver has it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import threading
import urllib.error
import urllib.request
from collections import deque
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from complex_system.errors import DeclarationError

log = logging.getLogger(__name__)

MAX_WAITING = 1000
"""Messages that wait while the receiver is away; then the oldest are dropped."""
ATTEMPT_SECONDS = 10.0
LONGEST_PAUSE = 60.0
REFUSED = (400, 405, 410, 413, 415, 422)
"""Statuses with which a receiver refuses this very message: sending it again would hold up those behind it indefinitely."""


class Webhook:
    """Sends messages in a thread of its own; no caller waits for it.

    A message is repeated, after pauses that double up to a minute, until the receiver answers with a status of 2xx. User and password
    in the address become a basic authorization. The address is a secret: messages in the log name its host only.
    """

    def __init__(self, url: str, first_pause: float = 1.0) -> None:
        """Start the thread.

        Args:
            url: http or https address.
            first_pause: Seconds until a message is sent again.

        Raises:
            DeclarationError: The address is not valid.
        """
        self._request_url, self._headers, self.host = _parsed(url)
        self._first_pause = first_pause
        self._waiting: deque[dict[str, Any]] = deque()
        self._news = threading.Condition()
        self._closed = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Messages that the receiver does not have yet."""
        return len(self._waiting)

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message of JSON values."""
        with self._news:
            if len(self._waiting) >= MAX_WAITING:
                log.error("The webhook at %s is away for too long: an alert of rule '%s' is dropped", self.host,
                          self._waiting.popleft().get("alert", {}).get("rule", ""))  # fmt: skip
            self._waiting.append(message)
            self._news.notify()

    def close(self, seconds: float) -> int:
        """Send what waits for at most so many seconds more; blocking. Return the number of messages that were not delivered."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(seconds)
        self._stopped.set()
        return self.waiting

    def _work(self) -> None:
        pause = self._first_pause
        while not self._stopped.is_set():
            with self._news:
                while not self._waiting and not self._closed:
                    self._news.wait()
                if not self._waiting:
                    return
                message = self._waiting[0]
            problem = self._post(message)
            if not problem:
                pause = self._first_pause
                with self._news, contextlib.suppress(ValueError):
                    self._waiting.remove(message)  # it may have been dropped meanwhile
                continue
            log.warning("The webhook at %s did not take an alert: %s. Again in %g s.", self.host, problem, pause)
            self._stopped.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _post(self, message: dict[str, Any]) -> str:
        """Send a message; return why it must be sent again, or an empty text."""
        body = json.dumps(message, ensure_ascii=False, allow_nan=False, default=str).encode()
        request = urllib.request.Request(self._request_url, body, self._headers, method="POST")  # noqa: S310 - http or https
        try:
            with _OPENER.open(request, timeout=ATTEMPT_SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in REFUSED:
                log.error("The webhook at %s refuses an alert with status %d; it is not sent again", self.host, error.code)
                return ""
            return f"status {error.code}"
        except (OSError, http.client.HTTPException) as error:  # the text of an error may hold the address
            return type(error.reason if isinstance(error, urllib.error.URLError) else error).__name__


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the authorization to another host, and turn the POST into a GET."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def _parsed(url: str) -> tuple[str, dict[str, str], str]:
    headers = {"Content-Type": "application/json", "User-Agent": "complex-system"}
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise DeclarationError("The webhook's address must begin with http:// or https:// and name a host.")
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    return urlunsplit((parts.scheme, place, parts.path, parts.query, "")), headers, place
