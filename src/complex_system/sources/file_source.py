"""The source of one file: reads it once it is there, repeats it as the settings say, and reads it again when it has changed."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from itertools import count
from pathlib import Path

from complex_system.errors import SourceFileError
from complex_system.sources.delivery import Delivery, Host
from complex_system.sources.replay import FileVersion, Replay, ReplayFile
from complex_system.sources.rows import Row

log = logging.getLogger(__name__)


class FileSource:
    """A file whose records are sent; the same file gives the same records each time, so reading it again changes nothing."""

    def __init__(self, host: Host, delivery: Delivery, path: Path) -> None:
        self._host = host
        self._delivery = delivery
        self._path = path
        self._next_batch_at = 0.0

    def __str__(self) -> str:
        """Return what the source is, for the state of the service."""
        return str(self._path)

    async def run(self) -> None:
        """Read the file, and read it again whenever it has changed, until the service ends.

        Raises:
            SourceFileError: It cannot be read, or its columns are not the declared ones.
        """
        while not await asyncio.to_thread(self._path.is_file):
            await self._host.set_state("waiting", f"the file {self._path} does not exist")
            if await self._host.wait_for_shutdown(1.0):
                return
        version = await asyncio.to_thread(FileVersion.of, self._path)
        if await self._read(version):
            await self._follow(version)

    async def _follow(self, read: FileVersion | None) -> None:
        """Read the file again whenever it has changed and then rests: rows that are there already change nothing."""
        seen = read
        while not await self._host.wait_for_shutdown(self._host.settings.source_interval):
            now = await asyncio.to_thread(FileVersion.of, self._path)
            if now is None or now == read or now != seen:
                seen = now
                continue
            read = now
            if self._delivery.without_keys:
                await self._leave_unread()
                continue
            log.info("%s has changed and is read again", self._path)
            try:
                await self._read(now)
            except SourceFileError as error:
                log.warning("The changed file is not read, what was read before stays: %s", error.message)
                await self._host.set_state("ready", f"the file has changed and cannot be read: {error.message}")

    async def _leave_unread(self) -> None:
        log.warning(
            "%s has changed and is not read again, because its rows have no keys: restart the source to read it", self._path
        )
        self._delivery.progress.note = "the file has changed and is not read again, because its rows have no keys"
        state = self._host.health().state
        if state == "ready":  # whoever watches hears of it when the service becomes ready again
            await self._host.set_state("working", f"{self._path} has changed")
        await self._host.set_state(state, str(self._delivery.progress))

    async def _read(self, version: FileVersion | None) -> bool:
        """Read the file, and repeat it as the settings say; return before the next repetition where it has changed.

        Returns:
            False if the service ends before.
        """
        host, delivery, settings = self._host, self._delivery, self._host.settings
        await host.set_state("working", f"reading {self._path}")
        file = await asyncio.to_thread(ReplayFile, self._path, host.dataset)
        for note in (*file.limits, *file.notes):
            log.info("%s: %s", self._path.name, note)
        delivery.begin(self._path.name, file.rows, version.modified if version else None)
        replay = Replay(file, host.dataset, settings.source_order, settings.seed)
        size = settings.batch_size
        if settings.source_rate:  # about a batch a second, so that the records come evenly
            size = max(1, min(size, math.ceil(settings.source_rate)))
        for number in count(1) if settings.source_repeat == 0 else range(1, settings.source_repeat + 1):
            now = await asyncio.to_thread(FileVersion.of, self._path)
            if number > 1 and now not in (None, version):
                if not delivery.without_keys:
                    return True
                version = now
                await self._leave_unread()
            delivery.progress.wanted = file.rows * (number if settings.source_repeat == 0 else settings.source_repeat)
            delivery.progress.repetition = number
            # An endless repetition is a live stream: all records of the file are there after the first one.
            delivery.busy_state = "ready" if settings.source_repeat == 0 and number > 1 else "working"
            if not await delivery.send_all(replay.batches(size, number), self._save_at_rate):
                return False
            if delivery.progress.refused >= number * file.rows:  # nothing to send, now and in every further repetition
                break
        await host.set_state("ready", str(delivery.progress))
        return True

    async def _save_at_rate(self, rows: list[Row]) -> bool:
        """Save rows when they are due; return False if the service ends before."""
        rate = self._host.settings.source_rate
        if rate:
            due = max(time.monotonic(), self._next_batch_at)
            self._next_batch_at = due + len(rows) / rate
            pause = due - time.monotonic()
            if pause > 0 and await self._host.wait_for_shutdown(pause):  # FastIoT takes 0 for no time-out
                return False
        return await self._delivery.save_rows(rows)
