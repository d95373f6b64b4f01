"""What ``fiot extras predict`` does: finds the service, writes the CSV, and says how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import msgspec
from pydantic import ValidationError

from complex_system.errors import StartError
from complex_system.local.folder import is_running
from complex_system.local.plan import API_KEY_FILE
from complex_system.predict.client import PredictError, RestClient
from complex_system.predict.file import PredictionFile, Summary, listed, predict_file
from complex_system.settings import Settings
from complex_system.terminal import printable

SERVICES = ("ml_serving_mlflow", "ml_serving")
"""The services that answer, the first that a deployment has."""
FAULTY, INTERRUPTED = 2, 130
"""Exit codes: some rows have faults; Ctrl-C."""

_SHOWN_SECONDS, _LINE_SECONDS = 0.5, 10.0
"""Seconds between two states of the progress, on a terminal and elsewhere."""


@dataclass(frozen=True)
class Service:
    """A serving service, and the key of its REST interface where it has one."""

    url: str
    api_key: str = ""


class _RunningService(msgspec.Struct):
    url: str = ""


class _Status(msgspec.Struct):
    services: dict[str, _RunningService]


def running_service(runs: Mapping[str, Path], api_key: str = "") -> Service | None:
    """Return the serving service of the deployment that runs on this machine; None where none does.

    Args:
        runs: Folders of local runs by deployment.
        api_key: The key to use; by default the one that a locked run keeps in its folder.

    Raises:
        StartError: Several run.
    """
    running = {name: folder for name, folder in runs.items() if is_running(folder)}
    if len(running) > 1:
        raise StartError(f"The deployments {', '.join(running)} run at the moment; name one with --deployment.")
    for name, folder in running.items():
        try:
            status = msgspec.json.decode((folder / "status.json").read_bytes(), type=_Status)
        except (OSError, msgspec.MsgspecError) as error:
            raise StartError(f"'{name}' is starting: {folder / 'status.json'} does not say yet where it serves.") from error
        urls = [status.services[service].url for service in SERVICES if service in status.services]
        if not any(urls):
            raise StartError(f"'{name}' runs and has no serving service ({', '.join(SERVICES)}); name one with --url.")
        kept = folder / API_KEY_FILE
        return Service(next(filter(None, urls)), api_key or (kept.read_text("utf-8").strip() if kept.is_file() else ""))
    return None


def service_of(environment: Mapping[str, str]) -> Service:
    """Return the service that containers publish on this machine, by a deployment's variables.

    Raises:
        StartError: A variable is not valid.
    """
    try:
        settings = Settings.of(environment)
    except ValidationError as error:
        raise StartError(f"The settings are not valid: {error}") from error
    return Service(f"http://127.0.0.1:{settings.serving_mlflow_port}", settings.api_key)


def predict_command(
    path: Path, client: RestClient, output: Path | None, *, force: bool, out: TextIO, err: TextIO, say: Callable[[str], None]
) -> int:
    """Predict a file; return the exit code.

    Args:
        path: The file.
        client: The service.
        output: Where to write the CSV; None for ``out``.
        force: Whether to replace an existing file.
        out: Takes the CSV.
        err: Shows the progress.
        say: Takes messages.

    Raises:
        SourceFileError: The file cannot be read.
        PredictError: The service cannot be asked, or the CSV cannot be written.
    """
    if output and output.exists() and not force:
        raise PredictError(f"{output} exists already; --force replaces it.")
    file = PredictionFile(path, client.declaration())
    if file.absent:
        say(f"The file has no column {listed(file.absent)}; its declared fill is used in every row.")
    if file.ignored:
        say(f"Ignored, because the model does not take it: {listed(file.ignored)}.")
    progress = _Progress(err)
    where = str(output) if output else "standard output"
    try:
        if output:
            with output.open("w", encoding="utf-8", newline="") as target:
                made = predict_file(file, client, _writer(target), progress)
        else:
            made = predict_file(file, client, _writer(out), progress)
    except KeyboardInterrupt:
        progress.end()
        say(f"Stopped: {progress.done:,} of {file.rows:,} rows were predicted; {where} has them.")
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 0
    except OSError as error:
        raise PredictError(f"{where} cannot be written: {error.strerror or error}.") from error
    finally:
        progress.end()
        client.close()
    say(_said(made, where))
    return FAULTY if made.faulty else 0


def _writer(target: TextIO) -> Callable[[str], None]:
    def write(text: str) -> None:
        target.write(printable(text) if target.isatty() else text)
        target.flush()

    return write


def _said(made: Summary, where: str) -> str:
    by = ", ".join(f"{count:,} by {model}" for model, count in made.models.items())
    text = f"{made.rows - made.faulty:,} of {made.rows:,} rows predicted{f' ({by})' if by else ''}; {where} has them."
    return f"{text} {made.faulty:,} have faults; {made.first}" if made.faulty else text


class _Progress:
    """Shows how far a long file is: on a terminal in one line, else in a line now and then."""

    def __init__(self, err: TextIO) -> None:
        self._err = err
        self._shown = 0.0
        self._open = False
        self.done = 0

    def __call__(self, done: int, rows: int, seconds: float) -> None:
        self.done = done
        text = f"{done:,} of {rows:,} rows, {done / seconds:,.0f} a second"
        if self._err.isatty() and seconds - self._shown >= _SHOWN_SECONDS:
            self._shown = seconds
            self._err.write(f"\r{text}\x1b[K")
            self._open = True
        elif not self._err.isatty() and seconds - self._shown >= _LINE_SECONDS:
            self._shown = seconds
            self._err.write(f"{text}\n")
        self._err.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._open:
            self._err.write("\n")
            self._open = False
