"""The command blocks of the documentation, and a terminal that runs them.

A comment before a block says what becomes of it; renderers do not show it:

``<!-- run -->`` runs the block: shell commands, or Python. Where it shows ``$ command`` and its output, the output is compared;
``...`` stands for any text.
``<!-- run: numbers vary -->`` runs it, and looks for each shown line in the output, whatever its numbers and frameworks are: which
model is best varies, too.
``<!-- run: output varies -->`` runs it, and does not look at the output.
``<!-- run with: FOLDER -->`` runs Python with the interpreter of another virtual environment of the repository.
``<!-- run without: COMMAND, ... -->`` runs it but for the commands that begin so.
``<!-- not run: WHY -->`` does not run it; WHY may name the test that does, and a command that it does without: without `fiot run`.
``<!-- by hand: COMMANDS -->`` is no block: shell commands that do what the text asks the reader to do himself.
``<!-- another terminal -->`` begins one, in the folder in which the page began.
``<!-- beside: fiot run mongo -->`` once in a page: its commands are called while that runs.

``fiot run`` without ``--once`` goes on in a second terminal, as for a reader, until the champion has answered; Ctrl-C ends it at the
page's end, or before the next one of the page.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LANGUAGES = ("", "bash", "python")
"""Of blocks that have to say what becomes of them: all others are texts."""
RUN = ("run", "run with", "run without", "by hand", "another terminal")
"""Marks of what the terminal does."""
_MARK = re.compile(r"<!-- (run without|run with|run|not run|by hand|another terminal|beside)(?:: (.*?))? -->", re.DOTALL)
_NOT_OURS = re.compile(
    r"^.*(?:No git tag|absl::InitializeLog|oneDNN|cpu_feature_guard|Unable to register cu|\w+Warning: |Traceback \().*$",
    re.MULTILINE,
)
"""What no command may say: warnings that a reader cannot heed."""
_FENCE = re.compile(r"( *)```(.*)")
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*(?:e-?\d+)?")
_MODEL = re.compile(r"\b(?:pytorch-wandb|pytorch|lightgbm|tensorflow|linear|stack)\b")


class Block(NamedTuple):
    """A block of a page, or what a reader does by hand."""

    page: str
    line: int
    language: str
    mark: str
    """Its first words; empty where there is none."""
    more: str
    """What the mark says after its colon."""
    text: str


def pages() -> list[str]:
    """The pages, from the repository's root."""
    found = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return [page for page in found if page.startswith("docs/") or "/" not in page]


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page in order, and what is done by hand between them."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    mark, more, at = "", "", 0
    while at < len(lines):
        line = lines[at]
        if line.lstrip().startswith("<!-- ") and (found := _MARK.match("\n".join(lines[at:]).lstrip())):
            start, at = at, at + found[0].count("\n")
            if found[1] in ("by hand", "another terminal"):
                yield Block(page, start + 1, "", found[1], "", found[2] or "")
            elif found[1] != "beside":
                mark, more = found[1], " ".join((found[2] or "").split())
        elif fence := _FENCE.fullmatch(line):
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            text = "\n".join(each.removeprefix(fence[1]) for each in lines[at + 1 : end])
            yield Block(page, at + 1, fence[2], mark, more, text)
            mark, more, at = "", "", end
        elif line.strip():
            mark, more = "", ""
        at += 1


def included(page: Path) -> list[tuple[str, Path]]:
    """The files that a page shows in whole, each under the name that it gives it in the line before, such as `src/a.py`."""
    found, name = [], ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if named := re.match(r"`([\w/]+\.\w+)`", line):
            name = named[1]
        elif shown := re.fullmatch(r"```\{literalinclude\} (\S+)", line):
            found.append((name, page.parent / shown[1]))
    return found


def beside(page: str) -> str:
    """The command that runs beside the commands of a page; empty where there is none."""
    found = re.search(r"^<!-- beside: (.*) -->$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a block with the output that it shows of each."""
    shown = text.startswith("$ ")
    command, output = "", ""
    for line in text.splitlines():
        if command and _is_whole(command):
            if shown and not line.startswith("$ "):
                output += line + "\n"
                continue
            yield command, output
            command = output = ""
        command += line.removeprefix("$ ") + "\n"
    if command.strip():
        yield command, output


def _is_whole(command: str) -> bool:
    if not re.sub(r"^\s*#.*$", "", command, flags=re.MULTILINE).strip() or command.rstrip("\n").endswith("\\"):
        return False
    return subprocess.run(["bash", "-n"], input=command, text=True, check=False, capture_output=True).returncode == 0


def difference(shown: str, said: str, how: str) -> str:
    """What of a shown output was not said; empty where all was."""
    if how == "output varies" or not shown.strip():
        return ""
    if how == "numbers vary":
        lines = {_without_numbers(line) for line in said.splitlines()}
        missing = [line for line in shown.splitlines() if not any(map(_pattern(_without_numbers(line)).fullmatch, lines))]
        return "\n".join(missing)
    return "" if _pattern(" ".join(shown.split())).fullmatch(" ".join(said.split())) else shown


def _without_numbers(line: str) -> str:
    return " ".join(_MODEL.sub("MODEL", _NUMBER.sub("0", line)).split())


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("..."))))


class Machine:
    """A machine of its own for ports: a network namespace with nothing but loopback. Pages name fixed ports."""

    def __init__(self) -> None:
        self._own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._holder = subprocess.Popen(
            ["unshare", *self._own, "--net", "--", "sh", "-c",
             "PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        with self._holder.stdout as said:
            assert said.readline() == b"up\n", "a network namespace cannot be made: it needs root, or user namespaces"

    def command(self, *argv: str) -> list[str]:
        """The command that runs another one there, as the same process."""
        user = ["--user", "--preserve-credentials"] if self._own else []
        return ["nsenter", *user, "--net", f"--target={self._holder.pid}", "--", *argv]

    def close(self) -> None:
        """Remove it."""
        self._holder.kill()
        self._holder.wait()


class Run:
    """A ``fiot run`` in a terminal of its own."""

    def __init__(self, machine: Machine, command: str, folder: Path, environment: dict[str, str], output: Path) -> None:
        self._command, self._output = command, output
        arguments = command.split("#", maxsplit=1)[0].split()
        self.deployment = arguments[arguments.index("run") + 1]
        self._status = folder / ".run" / self.deployment / "status.json"
        self._status.unlink(missing_ok=True)
        with output.open("wb") as out:
            self.process = subprocess.Popen(
                machine.command("bash", "-c", command),
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """What it has printed."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def wait_for_champion(self, seconds: float) -> None:
        """Wait until the champion has answered."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, ValueError):
                status = json.loads(self._status.read_text(encoding="utf-8"))
                if status["state"] == "running" and status["seconds_to_first_prediction"]:
                    return
            assert self.process.poll() is None, f"{self._command} ended:\n{self.said}"
            assert time.monotonic() < deadline, f"No champion after {seconds:g} s of {self._command}:\n{self.said}"
            time.sleep(0.2)

    def wait_to_say(self, check: Callable[[str], bool], seconds: float) -> None:
        """Wait until what it has printed is all of it: the status may be there before. Whoever looks at it says what is missing."""
        deadline = time.monotonic() + seconds
        while not check(self.said) and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            code = self.process.wait(90)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        assert code == 0, f"{self._command} ended with {code} after Ctrl-C:\n{self.said}"


class Terminal:
    """A shell in a folder, whose directory and variables stay from command to command, as a reader's do."""

    def __init__(self, machine: Machine, folder: Path, environment: dict[str, str], outputs: Path) -> None:
        self._machine, self._folder, self._environment, self._outputs = machine, folder, environment, outputs
        self._count = itertools.count()
        self._runs: list[Run] = []
        outputs.mkdir(exist_ok=True)
        self._shell = self._open()

    def _open(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._machine.command("bash", "--noprofile", "--norc"), cwd=self._folder, env=self._environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def do(self, block: Block) -> None:
        """Run a block; what does not work, or is not said as shown, fails."""
        if block.mark == "another terminal":
            self._close_shell()
            self._shell = self._open()
            return
        if block.language == "python" or block.mark == "run with":
            python = ROOT / block.more / "bin" / "python" if block.mark == "run with" else sys.executable
            self._command(block, f"{python} - <<'PROGRAM'\n{block.text}\nPROGRAM\n", "")
            return
        left_out = tuple(block.more.split(", ")) if block.mark == "run without" else ()
        for command, shown in commands(block.text):
            if left_out and command.startswith(left_out):
                continue
            if re.search(r"^(\w+=\S+ )*fiot run (?!.*--once)", command, re.MULTILINE):
                self._start(block, command.strip(), shown)
            else:
                self._command(block, command, shown)

    def close(self) -> None:
        """End what runs."""
        try:
            while self._runs:
                self._runs.pop().interrupt()
        finally:
            for run in self._runs:
                os.killpg(run.process.pid, signal.SIGTERM)
                run.process.wait(60)
            self._close_shell()

    def _close_shell(self) -> None:
        os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        for stream in (self._shell.stdin, self._shell.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _command(self, block: Block, command: str, shown: str) -> None:
        code, said = self._ask(command)
        assert code == 0, f"{block.page}:{block.line}: exit code {code} of\n{command}\n{said}"
        self._look_at(block, command, shown, said)

    def _start(self, block: Block, command: str, shown: str) -> None:
        _, where = self._ask("pwd; env -0")
        folder, _, variables = where.partition("\n")
        environment = dict(each.split("=", 1) for each in variables.split("\0") if "=" in each)
        while self._runs:
            self._runs.pop().interrupt()
        run = Run(self._machine, command, Path(folder), environment, self._outputs / f"{next(self._count)}.run")
        self._runs.append(run)
        run.wait_for_champion(600)
        run.wait_to_say(lambda said: not difference(shown, said, block.more), 60)
        self._look_at(block, command, shown, run.said)

    def _look_at(self, block: Block, command: str, shown: str, said: str) -> None:
        where = f"{block.page}:{block.line}: {command.strip()}"
        assert not (found := _NOT_OURS.search(said)), f"{where} says\n{found[0] if found else ''}"
        missing = difference(shown, said, block.more)
        assert not missing, f"{where} says not\n{missing}\nbut\n{said}"

    def _ask(self, command: str) -> tuple[int, str]:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        script = self._outputs / f"{next(self._count)}.sh"
        script.write_text(command, encoding="utf-8")
        output = script.with_suffix(".out")
        self._shell.stdin.write(f"source {script} > {output} 2>&1 < /dev/null; echo $?\n")
        self._shell.stdin.flush()
        code = self._shell.stdout.readline()
        return int(code or -1), output.read_text(encoding="utf-8", errors="replace")
