"""Hosts on one machine: network namespaces on a bridge of their own, and links between them that are cut, slow, or lose packets.

Nothing outside of these namespaces is touched. Interfaces, rules and routes end with their namespace, which is removed at the end of
the test, or, where the run was killed, at the start of the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

PREFIX = "complex-system-test-"
"""Namespaces are called ``complex-system-test-<process>-<host>``."""
SUBNET = "10.77.0"
LOST = 0.1
"""Share of the packets that a bad link loses, in each direction."""
LATE = 0.2
"""Seconds by which a slow link delays each packet, in each direction."""
KINDS = ("cut", "delay", "loss")

_NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_RELAY = Path(__file__).with_name("packet_relay.py")
_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """What this machine lacks for namespaces; empty where they can be made."""
    if os.geteuid():
        return "network namespaces need root"
    if absent := [each for each in ("ip", "iptables", "nsenter") if _program(each) is None]:
        return f"network namespaces need {', '.join(absent)}"
    probe = f"{PREFIX}{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", probe)
        _run("ip", "netns", "exec", probe, "iptables", "-A", "INPUT", "-m", "statistic", "--mode", "random",
             "--probability", "0.1", "-j", "DROP")  # fmt: skip
        if not Path("/dev/net/tun").exists():
            return "the relay that delays packets needs /dev/net/tun"
    except subprocess.CalledProcessError as error:
        return f"network namespaces, or iptables in them, are not permitted here: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "delete", probe], check=False, capture_output=True)
    return ""


def remove_leftovers(prefix: str = PREFIX) -> None:
    """Remove the namespaces of runs that were killed, with the processes that still run in them.

    Args:
        prefix: What their names begin with.
    """
    for path in sorted(_NETNS.glob(f"{prefix}*")) if _NETNS.exists() else ():
        owner = path.name.removeprefix(prefix).split("-")[0]
        if owner.isdigit() and not _is_test_run(int(owner)):
            _remove(path.name)


def enter(namespace: str) -> None:
    """Move the calling thread into a namespace; sockets that it makes from now on are there."""
    with (_NETNS / namespace).open() as there:
        _setns(there.fileno())


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Make the sockets of a block, which awaits nothing, in a namespace."""
    with Path("/proc/thread-self/ns/net").open() as here:
        enter(namespace)
        try:
            yield
        finally:
            _setns(here.fileno())


class Network:
    """Hosts on a bridge. A link is a pair of hosts.

    Attributes:
        hosts: Their names.
        links: All pairs of them.
    """

    def __init__(self, hosts: Sequence[str], prefix: str = PREFIX) -> None:
        """Prepare a network; nothing is made yet.

        Args:
            hosts: Their names.
            prefix: Of its namespaces. Test runs remove those that begin with :data:`PREFIX` where no test run has made them.
        """
        self.hosts = tuple(hosts)
        self._prefix = prefix
        self.links = tuple(itertools.combinations(self.hosts, 2))
        self._faults: dict[tuple[str, str], str] = {}
        self._relays: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    def address(self, host: str) -> str:
        """The address of a host."""
        return f"{SUBNET}.{self.hosts.index(host) + 1}"

    def namespace(self, host: str) -> str:
        """The namespace of a host."""
        return f"{self._prefix}{os.getpid()}-{host}"

    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        """The command that runs another one on a host, as the same process."""
        return ["nsenter", f"--net={_NETNS / self.namespace(host)}", "--", *argv]

    def at(self, host: str, function: Callable[[], T]) -> T:
        """Call a function whose sockets are on a host."""
        with inside(self.namespace(host)):
            return function()

    def __enter__(self) -> Network:
        remove_leftovers()
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for relay in self._relays.values():
            relay.kill()
            relay.wait()
        self._relays.clear()
        for host in (*self.hosts, "switch"):
            _remove(self.namespace(host))

    def fail(self, link: tuple[str, str], kind: str) -> None:
        """Break a link, from now on; nothing else may be wrong with it.

        Args:
            link: The link.
            kind: ``cut`` drops every packet, ``loss`` one of ten, and ``delay`` makes all of them late, without a word to anybody.
        """
        assert link not in self._faults
        self._faults[link] = kind
        if kind == "delay":
            self._delay(link)
        else:
            self._filter(link, kind, "-A")

    def heal(self, link: tuple[str, str]) -> None:
        """Repair a link."""
        kind = self._faults.pop(link)
        if kind != "delay":
            self._filter(link, kind, "-D")
        else:  # its devices end with it, and the routes over them
            relay = self._relays.pop(link)
            relay.kill()
            relay.wait()

    def heal_all(self) -> None:
        """Repair what is broken."""
        for link in list(self._faults):
            self.heal(link)

    # Inside

    def _make(self) -> None:
        switch = self.namespace("switch")
        for name in (switch, *map(self.namespace, self.hosts)):
            _run("ip", "netns", "add", name)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        for host in self.hosts:
            name, port = self.namespace(host), f"to-{host}"
            # One segment is one packet: otherwise a lost one has up to 64 KiB.
            _run(
                "ip",
                "-n",
                switch,
                "link",
                "add",
                port,
                "gso_max_segs",
                "1",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                name,
            )
            _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", name, "link", "set", "eth0", "gso_max_segs", "1", "up")
            _run("ip", "-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "lo", "up")

    def _filter(self, link: tuple[str, str], kind: str, action: str) -> None:
        some = [] if kind == "cut" else ["-m", "statistic", "--mode", "random", "--probability", str(LOST)]
        for here, there in (link, link[::-1]):
            rule = ["iptables", "-w", action, "INPUT", "-s", self.address(there), *some, "-j", "DROP"]
            _run(*self.command(here, rule))

    def _delay(self, link: tuple[str, str]) -> None:
        ends = [f"{_NETNS / self.namespace(host)}" for host in link]
        device = f"late{self.links.index(link)}"
        relay = subprocess.Popen([sys.executable, "-I", str(_RELAY), device, str(LATE), *ends], stdout=subprocess.PIPE)
        self._relays[link] = relay
        assert relay.stdout is not None
        with relay.stdout:
            assert relay.stdout.readline() == b"ready\n", "the relay does not start"
        for here, there in (link, link[::-1]):
            name = self.namespace(here)
            _run("ip", "-n", name, "link", "set", device, "up")
            _run("ip", "-n", name, "route", "replace", f"{self.address(there)}/32", "dev", device, "src", self.address(here))


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _run(name: str, *arguments: str) -> None:
    """Run a program; a failure says what it said."""
    done = subprocess.run([_program(name) or name, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, [name, *arguments], done.stdout, done.stderr)
        error.add_note(done.stderr)
        raise error


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _is_test_run(pid: int) -> bool:
    """Whether a process runs tests: pytest itself, or a worker of pytest-xdist, which is its child and is not called so."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return any("pytest" in " ".join(each.cmdline()) for each in (process, *process.parents()))
    return False


def _remove(namespace: str) -> None:
    """End what runs in a namespace of ours, and remove it."""
    if not (_NETNS / namespace).exists():
        return
    assert namespace.startswith("complex-system-")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = subprocess.run(["ip", "netns", "pids", namespace], check=False, capture_output=True, text=True)
        # A thread of the tests' own process may be there, too.
        pids = [int(each) for each in found.stdout.split() if int(each) != os.getpid()]
        if not pids:
            break
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        threading.Event().wait(0.05)
    subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)
