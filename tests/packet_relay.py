"""Delays the packets between two network namespaces: ``python packet_relay.py DEVICE SECONDS NAMESPACE NAMESPACE``.

It makes a TUN device in each of them, and what is sent into one comes out of the other one so much later, in the same order. So it
serves connections of every kind, those that exist already included. The devices end with this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TUN, _WITHOUT_HEADER = 0x0001, 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


def device(name: str, namespace: str) -> int:
    """Make a TUN device in a namespace; return its descriptor, which works from everywhere."""
    with Path(namespace).open() as there:
        if _libc.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN | _WITHOUT_HEADER))
    return descriptor


def relay(seconds: float, ends: tuple[int, int]) -> None:
    """Forward packets until the process is killed."""
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting: deque[tuple[float, int, bytes]] = deque()  # one queue: all packets wait for the same time
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select(ends, [], [], pause)
        now = time.monotonic()
        for end in ready:
            with contextlib.suppress(OSError):  # nothing more, or the device is not up yet
                while True:
                    waiting.append((now + seconds, other[end], os.read(end, 65536)))
        while waiting and waiting[0][0] <= now:
            _, end, packet = waiting.popleft()
            with contextlib.suppress(OSError):  # a queue is full: the packet is lost, as on any network
                os.write(end, packet)


if __name__ == "__main__":
    name, late, first, second = sys.argv[1:]
    both = (device(name, first), device(name, second))
    os.write(sys.stdout.fileno(), b"ready\n")
    relay(float(late), both)
