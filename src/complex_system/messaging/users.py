"""Users of the broker, as NATS's configuration: one for each service, one for each device, one for published FastIoT programs.

Every user may publish on and subscribe to its own subjects only. It hears replies on an inbox of its own, and may answer a request
that it has received, once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from complex_system.errors import StartError
from complex_system.messaging.nats_client import inbox_prefix
from complex_system.messaging.permissions import PUBLISHED, SERVICES, declared_subjects, subjects_of
from complex_system.messaging.readings import FASTIOT, PLAIN
from complex_system.messaging.subjects import INGEST_RAW
from complex_system.protocol.base import Event, Request
from complex_system.protocol.operations import SERVICE_HEARTBEAT, health_request

FIOT = "fiot"
"""The user of published FastIoT programs, which know host and port only."""
OPERATOR = "operator"
"""Default name of the user without limits, for people and for `fiot`'s commands."""
PASSWORD_VARIABLE = "COMPLEX_SYSTEM_NATS_PASSWORD_"  # noqa: S105 - a prefix of variables
DEVICE_VARIABLE = "COMPLEX_SYSTEM_NATS_DEVICE_"

_PART = "[a-z0-9]+(?:-[a-z0-9]+)*"
_DEVICE = re.compile(rf"(?=[a-z])(?=.{{1,64}}$){_PART}(?:\.{_PART})*")
_RESPONSES = 'allow_responses: { max: 1, expires: "10m" }'
"""A reply may come ten minutes after its request; the requester has long given up by then."""


@dataclass(frozen=True)
class BrokerUser:
    """A user of the broker.

    Attributes:
        name: Its name.
        variable: The environment variable that holds its password.
        publish: Subjects that it may publish on; None for all.
        subscribe: Subjects that it may subscribe to, its inbox among them; None for all.
        denied: Subjects that it never hears, whatever it subscribes to.
        responds: Whether it may answer requests that it has received.
    """

    name: str
    variable: str
    publish: tuple[str, ...] | None = None
    subscribe: tuple[str, ...] | None = None
    denied: tuple[str, ...] = ()
    responds: bool = False


def service_user(service: str) -> BrokerUser:
    """Return the user of a service, which has default rights if it is one of a project's own (``PROJECT_SERVICE``)."""
    uses = subjects_of(service)
    health = health_request(service).name
    own = f"{health}.*"  # of the replica on a host
    return BrokerUser(
        name=service,
        variable=PASSWORD_VARIABLE + service.upper(),
        publish=(SERVICE_HEARTBEAT.name, own, *_names(uses.announces), *_names(uses.asks), *uses.jetstream, *uses.shared),
        subscribe=(_inbox(service), health, own, *_names(uses.answers), *_names(uses.hears), *uses.shared),
        responds=True,
    )


def fiot_user(*, things: bool = False) -> BrokerUser:
    """Return the user of published FastIoT programs: kio's requests, and replies on FastIoT's inboxes (``_INBOX<digits>``).

    An inbox of FastIoT's is one token of any name, so the user may subscribe to any such name, except declared ones. The broker takes
    ``>`` for one token, too, and would deliver everything; subjects of several tokens are denied for that reason.

    Args:
        things: Whether it publishes FastIoT's Things, which the deployment collects.
    """
    return BrokerUser(
        name=FIOT,
        variable=PASSWORD_VARIABLE + FIOT.upper(),
        publish=(*_names(PUBLISHED), *((f"{FASTIOT}.>",) if things else ())),
        subscribe=("*",),
        denied=(*declared_subjects(), "*.>"),
    )


def device_user(device: str) -> BrokerUser:
    """Return the user of a device, which publishes records and readings under its own name and hears acknowledgements.

    Records go to ``ingest-raw-datapoints.<device>``, readings to ``things.<device>.<name>`` or, as FastIoT sends them, to
    ``v1.thing.<device>.<name>``.

    Raises:
        StartError: A device cannot have this name, or another user has it.
    """
    if _DEVICE.fullmatch(device) is None:
        raise StartError(
            f"'{device}' is not a name of a device: at most 64 small letters, digits, and single hyphens or dots between them, "
            "beginning with a letter, for instance press-4 or hall-2.press-4."
        )
    if device in {FIOT, OPERATOR, *SERVICES}:
        raise StartError(f"'{device}' is a user of the system; choose another name for the device.")
    variable = DEVICE_VARIABLE + device.upper().replace(".", "__").replace("-", "_")
    publish = (f"{INGEST_RAW.name}.{device}", f"{PLAIN}.{device}.>", f"{FASTIOT}.{device}.>")
    return BrokerUser(device, variable, publish=publish, subscribe=(_inbox(device),))


def devices_in(environment: Iterable[str]) -> tuple[BrokerUser, ...]:
    """Return the users of the devices whose variables are in an environment."""
    names = (each.removeprefix(DEVICE_VARIABLE) for each in sorted(environment) if each.startswith(DEVICE_VARIABLE))
    return tuple(device_user(name.replace("__", ".").replace("_", "-").lower()) for name in names)


def broker_users(services: Iterable[str], environment: Iterable[str] = ()) -> tuple[BrokerUser, ...]:
    """Return the users of a deployment's services, of published programs, and of the devices in its environment.

    Raises:
        StartError: A service and another user have the same name, or a device's variable names none.
    """
    names = tuple(services)
    users = (
        *(service_user(service) for service in names),
        fiot_user(things="thing_collection" in names),
        *devices_in(environment),
    )
    taken = Counter([OPERATOR, *(user.name for user in users)])
    if twice := [name for name, count in taken.items() if count > 1]:
        raise StartError(f"Two users of the broker are called '{twice[0]}'; give the service or the device another name.")
    return users


def authorization(users: Iterable[BrokerUser], passwords: Mapping[str, str] | None = None, *, default: str = "") -> str:
    """Return the section ``authorization`` of NATS's configuration.

    The first user is the operator (``FASTIOT_NATS_USER``, ``FASTIOT_NATS_PASSWORD``), without limits.

    Args:
        users: The users beside the operator.
        passwords: Values by variable, written as they are; None for variables of the broker's environment.
        default: User of those who connect without credentials; empty to refuse them.
    """

    def value(variable: str) -> str:
        return f"${variable}" if passwords is None else f'"{passwords[variable]}"'

    operator = f"  {{ user: {value('FASTIOT_NATS_USER')}, password: {value('FASTIOT_NATS_PASSWORD')} }}"
    lines = [operator, *(f'  {{ user: "{user.name}", password: {value(user.variable)}{_limits(user)} }}' for user in users)]
    no_auth = f'no_auth_user: "{default}"\n' if default else ""
    return "authorization { users: [\n" + "\n".join(lines) + f"\n] }}\n{no_auth}"


def _limits(user: BrokerUser) -> str:
    if user.publish is None or user.subscribe is None:
        return ""
    denied = f", deny: [{_quoted(user.denied)}]" if user.denied else ""
    limits = [
        f"publish: {{ allow: [{_quoted(user.publish)}] }}",
        f"subscribe: {{ allow: [{_quoted(user.subscribe)}]{denied} }}",
        *([_RESPONSES] if user.responds else []),
    ]
    return ", permissions: {\n      " + "\n      ".join(limits) + "\n  }"


def _inbox(user: str) -> str:
    return f"{inbox_prefix(user)}.>"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _names(declared: Iterable[Request[Any, Any] | Event[Any]]) -> tuple[str, ...]:
    return tuple(each.name for each in declared)
