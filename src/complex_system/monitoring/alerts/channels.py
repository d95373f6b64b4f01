"""Receivers of alerts outside of the system: a webhook for programs, and Apprise's services for people.

Addresses are secrets: what is logged, stored or shown of a receiver is its name, and errors are masked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import logging
import re
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, tzinfo
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec
from msgspec.structs import replace
from typing_extensions import override

from complex_system.errors import DeclarationError, StartError, how_to_install
from complex_system.monitoring.alerts.messages import Text, Told, text_of
from complex_system.protocol.operations import Alert

ATTEMPT_SECONDS = 10.0
REFUSED = (400, 405, 410, 413, 415, 422)
"""Statuses with which a receiver refuses this very message: sending it again would hold up those behind it indefinitely."""
SECRET_PREFIX = "whsec_"  # noqa: S105 - of the Standard Webhooks specification
_MIN_KEY_BYTES = 16


class NotDeliveredError(Exception):
    """A receiver did not take a message.

    Attributes:
        problem: Why, without addresses.
        for_good: Whether it refuses this message, so that it is not sent again.
    """

    def __init__(self, problem: str, *, for_good: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.for_good = for_good


class Channel(ABC):
    """A receiver.

    Attributes:
        name: What it is called in the log, the database and on the page.
        place: What an operator knows it by: its name, with the host where that is not a secret.
        for_people: Whether alerts are put together and held back in quiet hours. Others get each one immediately, in order.
    """

    for_people: ClassVar[bool] = False

    def __init__(self, name: str, place: str = "") -> None:
        self.name = name
        self.place = place or name

    @abstractmethod
    def send(self, told: Sequence[Told]) -> None:
        """Send one message; blocking.

        Args:
            told: What it tells, oldest first, all with the id of the message. One for a channel that is not for people.

        Raises:
            NotDeliveredError: The receiver did not take it.
        """

    @abstractmethod
    def send_test(self) -> None:
        """Send a test message; blocking.

        Raises:
            NotDeliveredError: The receiver did not take it.
        """


class WebhookMessage(msgspec.Struct, frozen=True):
    """What is posted, as JSON.

    Attributes:
        event: ``alert-raised`` or ``alert-ended``; ``test`` for a test message.
        system: What the deployment calls itself.
        text: The sentence.
        alert: All that is known of the alert; None in a test message.
    """

    event: str
    system: str
    text: str
    alert: Alert | None


class WebhookChannel(Channel):
    """An HTTP server that gets every alert as one POST of JSON.

    With a secret each is signed as the Standard Webhooks specification (standardwebhooks.com, 1.0) says: HMAC-SHA256 of id, time and
    body. User and password in the address become a basic authorization.
    """

    def __init__(self, url: str, system: str = "", secret: str = "", now: Callable[[], float] = time.time) -> None:
        """Make it; nothing is sent.

        Args:
            url: http or https address.
            system: What messages call the system.
            secret: Signs the messages; empty for no signature. With the prefix ``whsec_`` the rest is the key in base64.
            now: Seconds since 1970, for the signature.

        Raises:
            DeclarationError: The address or the secret is not valid.
        """
        self._url, self._headers, host = _parsed(url)
        super().__init__("webhook", f"webhook at {host}")
        self._system = system
        self._key = _key_of(secret) if secret else b""
        self._now = now

    @override
    def send(self, told: Sequence[Told]) -> None:
        [(alert, message)] = told
        if message.event == "raised":  # also where it has ended by now: its end is a message of its own
            alert = replace(alert, ended=None, over="")
        body = WebhookMessage(f"alert-{message.event}", self._system, alert.message, replace(alert, messages=()))
        self._post(message.id, body)

    @override
    def send_test(self) -> None:
        text = "This is a test message. If you see it, alerts arrive here."
        self._post(f"test-{time.time_ns()}", WebhookMessage("test", self._system, text, None))

    def _post(self, message_id: str, message: WebhookMessage) -> None:
        body = msgspec.json.encode(message)
        headers = {**self._headers, "webhook-id": message_id}
        if self._key:
            headers["webhook-timestamp"] = timestamp = str(int(self._now()))
            headers["webhook-signature"] = signature_of(self._key, message_id, timestamp, body)
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310 - http or https
        try:
            with _OPENER.open(request, timeout=ATTEMPT_SECONDS):
                return
        except urllib.error.HTTPError as error:
            error.close()
            problem, for_good = f"status {error.code}", error.code in REFUSED
        except (OSError, http.client.HTTPException) as error:  # the text of an error may hold the address
            problem, for_good = type(error.reason if isinstance(error, urllib.error.URLError) else error).__name__, False
        raise NotDeliveredError(problem, for_good=for_good)


def signature_of(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Return the header ``webhook-signature`` of a message."""
    digest = hmac.new(key, b".".join((message_id.encode(), timestamp.encode(), body)), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _key_of(secret: str) -> bytes:
    key = secret.encode()
    if secret.startswith(SECRET_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            raise DeclarationError(f"The webhook's secret must be base64 after '{SECRET_PREFIX}'.") from None
    if len(key) < _MIN_KEY_BYTES:
        raise DeclarationError(
            f"The webhook's secret must have at least {_MIN_KEY_BYTES} bytes; `openssl rand -hex 32` makes one."
        )
    return key


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


class AppriseChannel(Channel):
    """A service that Apprise knows: e-mail, Teams, Slack, a gateway for text messages and others (github.com/caronc/apprise)."""

    for_people = True

    def __init__(self, name: str, url: str, system: str = "", zone: tzinfo = UTC) -> None:
        """Make it; nothing is sent.

        Args:
            name: Of the channel.
            url: Apprise's address of the service.
            system: What messages call the system.
            zone: Of the times in messages.

        Raises:
            DeclarationError: Apprise does not know the service, or the address lacks something.
            StartError: Apprise is not installed.
        """
        super().__init__(name)
        self._secrets = _secrets_of(url)
        self._system, self._zone = system, zone
        with self._listening() as heard:
            server = _apprise().Apprise.instantiate(url)
        if server is None:
            why = f" ({self._masked(heard)})" if heard else ""
            raise DeclarationError(
                f"Apprise cannot use the address of '{name}'{why}; github.com/caronc/apprise has the services."
            )
        self._server = server

    @override
    def send(self, told: Sequence[Told]) -> None:
        self._notify(text_of(told, self._system, self._zone))

    @override
    def send_test(self) -> None:
        self._notify(Text(f"[{self._system}] Test message", "If you see this, alerts arrive here.", "info"))

    def _notify(self, text: Text) -> None:
        levels = {"critical": "failure", "warning": "warning", "info": "info", "ended": "success"}
        with self._listening() as heard:
            try:
                taken = self._server.notify(
                    body=text.body,
                    title=text.title,
                    notify_type=_apprise().NotifyType(levels[text.severity]),
                    body_format="text",
                )
            except Exception as error:  # noqa: BLE001 - of any of a hundred services; its text may hold the address
                raise NotDeliveredError(type(error).__name__) from None
        if not taken:
            raise NotDeliveredError(self._masked(heard) or "the service did not take it")

    @contextmanager
    def _listening(self) -> Iterator[list[str]]:
        """Hear why Apprise fails in this thread; it only logs that. Nothing of it reaches our log: its lines may hold addresses."""
        heard: list[str] = []
        thread = threading.get_ident()

        class Ear(logging.Handler):
            @override
            def emit(self, record: logging.LogRecord) -> None:
                text = record.getMessage()
                if record.thread == thread and (record.levelno >= logging.WARNING or text.startswith("Socket Exception")):
                    heard.append(" ".join(text.split()))

        logger, ear = logging.getLogger("apprise"), Ear()
        logger.propagate = False
        logger.setLevel(logging.DEBUG)
        logger.addHandler(ear)
        try:
            yield heard
        finally:
            logger.removeHandler(ear)

    def _masked(self, heard: Sequence[str]) -> str:
        text = " ".join(heard)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text[:300]


def channels_of(webhook_url: str, webhook_secret: str, urls: str, system: str, zone: tzinfo) -> list[Channel]:
    """Return the receivers of a deployment: the webhook where there is one, and a channel for each of Apprise's addresses.

    The names of the latter are their schemes, with a number from the second of a scheme on: ``mailto``, ``slack``, ``mailto-2``.

    Args:
        webhook_url: Address of the webhook; empty for none.
        webhook_secret: Signs its messages; empty for no signature.
        urls: Apprise's addresses, separated by white space or commas.
        system: What messages call the system.
        zone: Of the times in messages to people.

    Raises:
        DeclarationError: One of them is not valid.
        StartError: Apprise is not installed, and there are addresses.
    """
    found: list[Channel] = [WebhookChannel(webhook_url, system, webhook_secret)] if webhook_url else []
    schemes: list[str] = []
    for url in re.split(r"[\s,]+(?=[A-Za-z][\w+.-]*://)", urls.strip()) if urls.strip() else []:
        scheme, separator, _ = url.partition("://")
        if not separator:
            raise DeclarationError(
                "COMPLEX_SYSTEM_MESSAGE_URLS must hold addresses such as mailto://..., separated by spaces."
            )
        schemes.append(scheme.lower())
        number = schemes.count(scheme.lower())
        found.append(
            AppriseChannel(f"{scheme.lower()}-{number}" if number > 1 else scheme.lower(), url.strip(" ,"), system, zone)
        )
    return found


def _secrets_of(url: str) -> list[str]:
    """Return what must not be shown of an address: all but its scheme, since a token may be in any place. The longest first."""
    rest = url.partition("://")[2]
    parts = {part for text in (rest, unquote(rest)) for part in re.split(r"[/:@?&=,;#\s]+", text) if len(part) > 2}
    return sorted({rest, unquote(rest), *parts}, key=len, reverse=True)


def _apprise() -> Any:
    try:
        import apprise
    except ImportError as error:
        raise StartError(f"Messages to people need Apprise: {how_to_install('messages')}.") from error
    return apprise
