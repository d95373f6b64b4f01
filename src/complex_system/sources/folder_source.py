"""The source of a folder that grows: reads each file once, when it rests, and what is appended to it later."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from complex_system.domain.documents import Document
from complex_system.errors import SourceFileError
from complex_system.sources.delivery import Delivery, Documents, Host, source_name
from complex_system.sources.replay import ReplayFile, readable
from complex_system.sources.tables import is_table

log = logging.getLogger(__name__)

KIND = "source-file"
"""Kind of the documents that keep which files were read."""
_PART = 1 << 20
_NAMED = 3
"""Files with a problem that the state names."""


class Version(NamedTuple):
    """A file at one moment: when it was changed last, and its size in bytes."""

    modified_ns: int
    size: int

    @classmethod
    def of(cls, path: Path) -> Version:
        """Return the version that is there.

        Raises:
            FileNotFoundError: There is none.
        """
        state = path.stat()
        return cls(state.st_mtime_ns, state.st_size)


class Content(NamedTuple):
    """The content of a file.

    Attributes:
        digest: Its SHA-256, in hexadecimal digits.
        head: That of its first bytes.
    """

    digest: str
    head: str

    @classmethod
    def of(cls, path: Path, head: int) -> Content:
        """Return the content of a file.

        Args:
            path: The file.
            head: How many bytes are looked at apart.
        """
        whole = hashlib.sha256()
        with readable(path), path.open("rb") as file:
            while head > 0 and (part := file.read(min(head, _PART))):
                whole.update(part)
                head -= len(part)
            first = whole.hexdigest() if head == 0 else ""
            while part := file.read(_PART):
                whole.update(part)
        return cls(whole.hexdigest(), first)


class ReadFile(NamedTuple):
    """What is kept of a file that was read.

    Attributes:
        modified_ns: When it was changed last.
        size: In bytes.
        digest: SHA-256 of its content, in hexadecimal digits.
        first: The digest from which keys of its rows are made: that of its first reading, and of what was appended since.
        keys_made: Whether rows have no keys of their own.
        complete: Whether the database has all of its rows.
    """

    modified_ns: int
    size: int
    digest: str
    first: str
    keys_made: bool
    complete: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> ReadFile:
        """Return what a document says."""
        return cls(*(body[name] for name in cls._fields))

    def is_done(self, version: Version) -> bool:
        """Return whether the database has all rows of a version."""
        return self.complete and version == (self.modified_ns, self.size)


class FolderSource:
    """A folder whose files are sent, each once; where their rows have no keys, they get some from the file's name and content."""

    def __init__(self, host: Host, delivery: Delivery, documents: Documents, folder: Path) -> None:
        self._host = host
        self._delivery = delivery
        self._documents = documents
        self._folder = folder
        self._name = source_name(host.settings)
        self._read: dict[str, ReadFile] = {}
        self._refused: dict[str, Version] = {}
        self._problems: dict[str, str] = {}

    def __str__(self) -> str:
        """Return what the source is, for the state of the service."""
        return f"the folder {self._folder}"

    async def run(self) -> None:
        """Read the files that are there, and new ones at each look, until the service ends."""
        host = self._host
        seen: dict[str, Version] | None = None
        self._delivery.begin(str(self._folder), 0, None)
        while True:
            try:
                found = await asyncio.to_thread(self._files)
            except OSError as error:
                await host.set_state("waiting", f"the folder {self._folder} cannot be read: {error.strerror or error}")
            else:
                if seen is not None and not await self._look(found, seen):
                    return
                seen = found
            if await host.wait_for_shutdown(host.settings.source_interval):
                return

    def _files(self) -> dict[str, Version]:
        """Return the files by their path in the folder.

        Raises:
            OSError: The folder cannot be read.
        """
        next(self._folder.iterdir(), None)
        found: dict[str, Version] = {}
        for path in self._folder.glob(self._host.settings.source_files):
            inside = path.relative_to(self._folder)
            if is_table(path) and not any(part.startswith((".", "~$")) for part in inside.parts):
                with suppress(FileNotFoundError):
                    found[inside.as_posix()] = Version.of(path)
        return found

    async def _look(self, found: Mapping[str, Version], seen: Mapping[str, Version]) -> bool:
        """Read the files that rest and were not read; return False if the service ends before."""
        new = [name for name in found if name not in self._read]
        documents = await self._delivery.repeated(lambda: self._documents.by_keys(KIND, [self._key(name) for name in new]))
        if documents is None:
            return False
        self._read |= {str(each.body["path"]): ReadFile.of(each.body) for each in documents}
        # Oldest first, so that records come about in the order in which they were made.
        for name in sorted(found, key=lambda name: (found[name].modified_ns, name)):
            version, read = found[name], self._read.get(name)
            if version != seen.get(name) or version == self._refused.get(name) or (read and read.is_done(version)):
                continue
            try:
                if not await self._take(name, version, read):
                    return False
            except SourceFileError as error:
                self._refused[name] = version
                self._tell(name, error.message)
        self._delivery.progress.note = self._problems_text()
        await self._host.set_state("ready", str(self._delivery.progress))
        return True

    async def _take(self, name: str, version: Version, read: ReadFile | None) -> bool:
        """Send the rows of a file; return False if the service ends before.

        Args:
            name: Of the file.
            version: That rests.
            read: What is known of an earlier version.

        Raises:
            SourceFileError: The file cannot be read, or its columns are not the declared ones.
        """
        path = self._folder / name
        content = await asyncio.to_thread(Content.of, path, read.size if read else 0)
        first = content.digest
        if (read and content.digest == read.digest) or (read and content.head == read.digest):
            first = read.first  # only its time is new, or rows were appended: the others keep their keys
        elif read and read.keys_made:
            self._refused[name] = version
            self._tell(name, "has changed and is not read again, because its rows have no keys")
            return True
        own = hashlib.sha256(f"{self._name}\0{name}\0{first}".encode()).digest()
        file = await asyncio.to_thread(ReplayFile, path, self._host.dataset, digest=own)
        if await asyncio.to_thread(Version.of, path) != version:
            return True  # it is being written again, and the next looks see when it rests
        self._problems.pop(name, None)
        if read:
            log.info("%s has changed and is read again", path)
        for note in (*file.limits, *file.notes):
            log.info("%s: %s", name, note)
        taken = ReadFile(*version, content.digest, first, keys_made=not file.keyed, complete=False)
        if await self._keep(name, taken) is None:
            return False
        self._delivery.continue_with(name, file.rows, version.modified_ns / 1e9)
        if not await self._delivery.send_all(file.batches(self._host.settings.batch_size), self._delivery.save_rows):
            return False
        return await self._keep(name, taken._replace(keys_made=self._delivery.without_keys, complete=True)) is not None

    async def _keep(self, name: str, read: ReadFile) -> bool | None:
        """Keep what was read of a file; return None if the service ends before."""
        self._read[name] = read
        body = {"source": self._name, "path": name, **read._asdict()}
        document = Document(KIND, self._key(name), read.modified_ns / 1e9, body)

        async def save() -> bool:
            await self._documents.save([document])
            return True

        return await self._delivery.repeated(save)

    def _key(self, name: str) -> str:
        return hashlib.sha256(f"{self._name}\0{name}".encode()).hexdigest()[:32]

    def _tell(self, name: str, problem: str) -> None:
        log.warning("%s: %s", self._folder / name, problem)
        self._problems[name] = problem

    def _problems_text(self) -> str:
        more = f"; and {len(self._problems) - _NAMED} more files" if len(self._problems) > _NAMED else ""
        return "; ".join(f"{name}: {problem}" for name, problem in list(self._problems.items())[:_NAMED]) + more
