"""``fiot extras predictions``: copies the kept predictions of a period from ``ml_monitoring`` to a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlencode

from complex_system.predict.client import PredictError, RestClient

FORMATS = ("csv", "parquet")
_PERIOD = timedelta(days=7)


def predictions_command(
    client: RestClient, since: str, until: str, form: str, output: Path | None, *, model: str, version: str, force: bool,
    out: BinaryIO, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Copy the predictions of a period.

    Args:
        client: Of ``ml_monitoring``.
        since: Begin as ISO 8601, UTC where it names no zone; empty for seven days before the end.
        until: End, likewise; empty for now.
        form: One of ``FORMATS``; empty for what the suffix of ``output`` says.
        output: The file; None for ``out``.
        model: Registered name; empty for all.
        version: Registered version; empty for all.
        force: Whether to replace an existing file.
        out: Standard output.
        say: Takes messages.

    Raises:
        PredictError: An argument is not valid, the service cannot be asked, or the file cannot be written.
    """
    end = _time("--to", until) if until else datetime.now(UTC)
    begin = _time("--from", since) if since else end - _PERIOD
    suffix = output.suffix.removeprefix(".").lower() if output else ""
    chosen = form or (suffix if suffix in FORMATS else "csv")
    if chosen not in FORMATS:
        raise PredictError(f"--format takes {' or '.join(FORMATS)}, not '{form}'.")
    if output and output.exists() and not force:
        raise PredictError(f"{output} exists already; --force replaces it.")
    wanted = {"from": begin.timestamp(), "to": end.timestamp(), "model": model, "version": version}
    path = f"/api/predictions.{chosen}?{urlencode({name: each for name, each in wanted.items() if each != ''})}"
    try:
        if output is None:
            client.download(path, out)
            out.flush()
            return
        partial = output.with_name(f"{output.name}.part")
        try:
            with partial.open("wb") as target:
                count = client.download(path, target)
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return
    except OSError as error:
        raise PredictError(f"{output or 'standard output'} cannot be written: {error.strerror or error}.") from error
    finally:
        client.close()
    say(f"{output} has the predictions from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, {count:,} bytes.")


def _time(option: str, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise PredictError(f"{option} takes a time such as 2026-11-01 or 2026-11-01T06:00, not '{text[:40]}'.") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
