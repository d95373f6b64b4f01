"""``make verify``: the contract, fault and compose proofs against the public images, and a report of what was shown.

Needs Docker; the compose proofs also docker-compose and root. Images that are not here are pulled. Containers are removed at the end,
also after Ctrl-C. Stand-ins under the images' names are told apart by what the image and its server say, not by the tag.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from complex_system import __version__
from verify import grafana
from verify.images import IMAGES, DockerError, Image, Run, ask_version, docker, is_mongod, started

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "verify"
PROGRESS_SECONDS = 30
LONGEST_SECONDS = 2 * 3600
STORES = ("test_stores", "test_conflicts", "test_copies", "test_declaration_changes", "test_envelope_migration",
          "test_retention")  # fmt: skip
PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
ALL_PASSED, ONE_FAILED, INCOMPLETE = 0, 1, 3
NONE_SELECTED = 5
"""pytest's exit code if no test is selected."""
OWN_SERVER = "it starts a server of its own"


@dataclass
class Proof:
    """Something that is to be shown, and how it went.

    Attributes:
        images: What it needs, by name in ``IMAGES``.
        servers: What is started in containers and given to the tests.
        files: Test files; without them, ``module`` is run.
        expression: Which of their tests.
        left_out: Tests of these that say nothing of the image, and why.
        stand_ins: Images that are not the published ones.
        unclear: Images that nobody has asked what they are, or whose origin is not certain.
    """

    name: str
    shows: str
    images: tuple[str, ...]
    servers: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    expression: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    module: tuple[str, ...] = ()
    result: str = NOT_RUN
    seconds: float = 0.0
    said: str = "not reached"
    stand_ins: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    def selection(self, *, quick: bool) -> list[str]:
        """Return pytest's arguments for its tests."""
        parts = [f"({self.expression})"] if self.expression else []
        parts += [f"not {name}" for name in self.left_out]
        marks = "not long" if quick else "long or not long"
        return [*self.files, "-m", marks, *(["-k", " and ".join(parts)] if parts else [])]


def proofs() -> list[Proof]:
    """Return all proofs, the quick ones first."""
    contract, integration, faults = (f"tests/{folder}/" for folder in ("contract", "integration", "faults"))
    stores = tuple(f"{contract}{name}.py" for name in STORES)
    return [
        Proof("contract-mongo", "the store's contract on MongoDB", ("mongo", "nats"), ("mongo", "nats-with-users"),
              (*stores, f"{contract}test_mongo_marks.py"), "mongo and not secantus"),
        Proof("contract-maria", "the store's contract on MariaDB", ("mariadb", "nats"), ("mariadb", "nats-with-users"),
              (*stores, f"{contract}test_kept_counts.py"), "maria or kept_counts"),
        Proof("contract-nats", "messages, permissions and leases on NATS", ("nats",), ("nats-with-users",),
              tuple(f"{integration}test_{name}.py" for name in ("messaging", "permissions", "lease")),
              left_out={"test_the_broker_of_a_locked_run_has_the_same_users": OWN_SERVER,
                        "test_without_jetstream_a_service_acts_and_says_once_that_nothing_keeps_a_second_one_away": OWN_SERVER}),
        Proof("contract-ingest", "JetStream's ingest into both databases", ("nats", "mongo", "mariadb"),
              ("nats", "mongo", "mariadb"), (f"{integration}test_ingest.py",),
              left_out={"test_a_broker_that_is_killed_loses_nothing_it_has_acknowledged": OWN_SERVER,
                        "test_a_broker_without_jetstream_is_named_once_and_requests_are_answered": OWN_SERVER}),
        Proof("contract-mlflow", "trackers, models' sources and registry on MLflow's server", ("mlflow",), ("mlflow",),
              (f"{contract}test_trackers.py", f"{contract}test_sources.py", f"{integration}test_tracking.py"),
              left_out={"test_a_champion_whose_version_was_deleted_counts_as_none": "it writes into the server's database",
                        "test_a_champion_that_was_deleted_counts_as_none_on_a_server_of_the_clients_release": OWN_SERVER}),
        Proof("faults-mongo", "NATS and MongoDB are killed, frozen and slowed down while records flow", ("nats", "mongo"),
              ("nats", "mongo"), (f"{faults}test_faults.py",), "mongo"),
        Proof("faults-maria", "NATS and MariaDB are killed, frozen and slowed down while records flow", ("nats", "mariadb"),
              ("nats", "mariadb"), (f"{faults}test_faults.py",), "maria"),
        Proof("replica-set", "the primary of MongoDB's replica set is killed, and frozen, while records flow", ("nats", "mongo"),
              ("nats", "mongo"), ("tests/verify/primary.py",)),
        Proof("grafana", "Grafana loads the dashboards and accepts the query of every panel", ("prometheus", "grafana")),
        Proof("compose-mongo", "the deployment mongo in containers, with a crash of each", ("nats", "mongo", "mlflow"),
              module=("compose.proof", "mongo")),
        Proof("compose-maria", "the deployment maria in containers, with a crash of each", ("nats", "mariadb", "mlflow"),
              module=("compose.proof", "maria")),
        Proof("compose-cluster", "a trainer on a Ray cluster in containers, one of whose workers is killed",
              ("nats", "mongo", "mlflow"), module=("compose.cluster",)),
        Proof("compose-things", "single readings and Prometheus in containers", ("nats", "mariadb", "mlflow", "prometheus"),
              module=("compose.things", "maria")),
    ]  # fmt: skip


class Verification:
    """One run: looks at the images, runs the proofs, and writes the report anew after each."""

    def __init__(self, wanted: list[Proof], report: Path, *, pull: bool, quick: bool) -> None:
        self.proofs = wanted
        self.report = report
        self.quick = quick
        self.pull = pull
        self.images = {
            name: Image(name, reference) for name, reference in IMAGES.items() if any(name in each.images for each in wanted)
        }
        self.broken: dict[str, str] = {}
        self.began = time.monotonic()
        self.date = datetime.now(UTC)
        self.run = Run()

    def say(self, text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - self.began:7.1f} s] {text}\n")
        sys.stdout.flush()

    def all(self) -> int:
        """Run everything and return the exit code."""
        try:
            self.look()
            for proof in self.proofs:
                self.one(proof)
                self.write()
        except KeyboardInterrupt:
            self.say("interrupted: removing the containers")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not leave containers behind
                signal.signal(number, signal.SIG_IGN)
            self.run.remove()
            shutil.rmtree(self.run.folder, ignore_errors=True)
            self.write()
        self.say(f"{self.verdict()} Report: {self.report}")
        if any(each.result == FAILED for each in self.proofs):
            return ONE_FAILED
        complete = all(each.result == PASSED and not each.stand_ins and not each.unclear for each in self.proofs)
        return ALL_PASSED if complete else INCOMPLETE

    def look(self) -> None:
        """Find every image, start its server once, and ask it what it is."""
        for name, image in self.images.items():
            try:
                image.look(pull=self.pull)
            except Exception as error:
                image.missing = f"Docker describes it in another way than expected: {text_of(error)}"
            if name in ("prometheus", "grafana") or image.missing:  # asked where they are needed
                self.say(f"{image.reference}: {image.missing or 'here'}")
                continue
            try:
                with started(self.run, name, image) as server:
                    ask_version(image, server.server)
            except Exception as error:  # of Docker, or of any of the drivers
                self.broken[name] = f"{image.reference} does not start: {text_of(error)}"
            self.say(
                f"{image.reference}: {self.broken.get(name) or image.version}"
                + (f"; a stand-in: {', '.join(image.doubts)}" if image.doubts else "")
            )

    def one(self, proof: Proof) -> None:
        images = [self.images[name] for name in proof.images]
        if missing := [f"{each.reference}: {each.missing}" for each in images if each.missing]:
            proof.said = "; ".join(missing)
            self.say(f"{proof.name}: not run: {proof.said}")
            return
        began = time.monotonic()
        self.say(f"{proof.name}: {proof.shows}")
        try:
            if broken := [self.broken[name] for name in proof.images if name in self.broken]:
                raise DockerError("; ".join(broken))
            if proof.name == "replica-set" and not is_mongod(self.images["mongo"]):
                proof.said = "the image has no mongod, so there is no replica set"
            elif proof.name == "grafana":
                proof.said = grafana.prove(self.run, *images, self.say)
                proof.result = PASSED
            else:
                proof.said, proof.result = self.command(proof)
        except Exception as error:  # the proofs behind it are run all the same, and the report has them all
            proof.result, proof.said = FAILED, text_of(error)
        except KeyboardInterrupt:
            proof.said = "interrupted"
            raise
        finally:
            proof.seconds = time.monotonic() - began
            proof.stand_ins = [each.reference for each in images if each.doubts]
            proof.unclear = [each.reference for each in images if not each.doubts and (not each.version or each.uncertain)]
        self.say(f"{proof.name}: {proof.result}: {first_line(proof.said)}")

    def command(self, proof: Proof) -> tuple[str, str]:
        """Run a proof's tests or module beside its servers; return what it said, and its result."""
        log = FOLDER / f"{proof.name}.log"
        with ExitStack() as stack:
            variables: dict[str, str] = {}
            for name in proof.servers:
                image = self.images[name.partition("-")[0]]
                variables |= stack.enter_context(started(self.run, name, image)).variables
            if proof.module:
                module, *arguments = proof.module
                command = [sys.executable, "-m", module, *arguments]
            else:
                command = [
                    sys.executable,
                    "-m",
                    "pytest",
                    *proof.selection(quick=self.quick),
                    "-p",
                    "no:cacheprovider",
                    "-rfEs",
                ]
            code = self.wait(proof.name, command, variables, log)
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing was printed"]
        if not proof.module:
            return judged(code, said, quick=self.quick)
        seen = sum(line.startswith("[") for line in said)
        return (f"{seen} observations in {log.name}", PASSED) if code == 0 else (said[-1], FAILED)

    def wait(self, name: str, command: list[str], variables: dict[str, str], log: Path) -> int:
        """Run a command, say how far it is, and end it in order when this run is interrupted."""
        with log.open("w", encoding="utf-8") as file:
            child = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **variables}, stdout=file, stderr=subprocess.STDOUT, process_group=0
            )
        began = time.monotonic()
        try:
            while True:
                try:
                    return child.wait(PROGRESS_SECONDS)
                except subprocess.TimeoutExpired:
                    self.say(f"{name}: {_progress(log.read_text(encoding='utf-8', errors='replace'))}")
                    if time.monotonic() - began > LONGEST_SECONDS:
                        raise DockerError(f"not finished within {LONGEST_SECONDS} s; see {log.name}") from None
        finally:
            self.end(child)

    @staticmethod
    def end(child: subprocess.Popen[bytes]) -> None:
        """Interrupt what still runs, which then removes what it has started."""
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(180)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    # Report

    def verdict(self) -> str:
        of = {result: [each.name for each in self.proofs if each.result == result] for result in (PASSED, FAILED, NOT_RUN)}
        doubtful = sorted({name for each in self.proofs if each.result == PASSED for name in each.stand_ins})
        text = f"{len(of[PASSED])} of {len(self.proofs)} proofs passed"
        text += f", {len(of[FAILED])} failed ({', '.join(of[FAILED])})" if of[FAILED] else ""
        text += f", {len(of[NOT_RUN])} not run ({', '.join(of[NOT_RUN])})" if of[NOT_RUN] else ""
        text += "."
        if doubtful:
            text += f" On stand-ins, not on the published images: {', '.join(doubtful)}."
        if unclear := sorted({name for each in self.proofs if each.result == PASSED for name in each.unclear}):
            text += f" Perhaps not on the published images, see the table: {', '.join(unclear)}."
        return text

    def write(self) -> None:
        """Write the report of what is known so far."""
        images = [
            f"| `{each.reference}` | {f'`{each.digest}`' if each.digest else ''} | {each.version} | {self.nature(each)} |"
            for each in self.images.values()
        ]
        rows = [
            f"| {each.name} | {each.shows} | {each.result}{', on stand-ins' if each.stand_ins and each.result != NOT_RUN else ''} "
            f"| {each.seconds:.0f} | {first_line(each.said).replace('|', '/')[:300]} |"
            for each in self.proofs
        ]
        failures = [
            f"### {each.name}\n\n```\n{each.said[:6000]}\n```\n" for each in self.proofs if len(each.said.splitlines()) > 1
        ]
        left_out = [f"- {each.name}: `{name}`: {why}" for each in self.proofs for name, why in each.left_out.items()]
        quick = " Without the tests that take minutes (`--quick`)." if self.quick else ""
        text = "\n".join(
            [
                "# Verification on the public images\n",
                f"**{self.verdict()}**{quick}\n",
                f"- Date: {self.date:%Y-%m-%d %H:%M} UTC, {time.monotonic() - self.began:.0f} s",
                f"- complex-system {__version__}, commit {_commit()}",
                f"- Machine: {_machine()}",
                f"- Docker {_docker_version()}, Python {platform.python_version()}\n",
                "| image | digest, or id where it has none | server says | is |", "|---|---|---|---|", *images, "",
                "| proof | shows | result | seconds | said |", "|---|---|---|---|---|", *rows, "",
                *(["Tests that are left out, because they say nothing of the image:\n", *left_out, ""] if left_out else []),
                *failures,
            ]
        )  # fmt: skip
        self.report.parent.mkdir(parents=True, exist_ok=True)
        self.report.write_text(text.rstrip() + "\n", encoding="utf-8")

    def nature(self, image: Image) -> str:
        if image.missing or image.name in self.broken:
            return "not available" if image.missing else "does not start"
        if image.doubts:
            return f"**a stand-in**: {', '.join(image.doubts)}"
        if not image.version:
            return "not asked: only `grafana` asks it" if image.name in ("prometheus", "grafana") else "not asked"
        return image.uncertain or "the published image"


def text_of(error: Exception) -> str:
    """Return what an error says, or its name if it says nothing."""
    return str(error).strip() or type(error).__name__


def first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")


def judged(code: int, said: list[str], *, quick: bool) -> tuple[str, str]:
    """Return what pytest said, and what is shown by it: nothing, if no test was selected or all were skipped."""
    if code == NONE_SELECTED:
        return "none of its tests is selected" + (": they all take minutes (--quick)" if quick else ""), NOT_RUN
    summary = next(
        (line for line in reversed(said) if re.search(r"\d (passed|failed|skipped|errors?)\b.* in [\d.]+s", line)), said[-1]
    )
    marked = [line[:300] for line in said if re.match(r"(FAILED|ERROR|SKIPPED) ", line)]
    text = "\n".join([summary.strip("= "), *marked[:30]])
    if code:
        return text, FAILED
    return text, PASSED if re.search(r"\b[1-9]\d* passed\b", summary) else NOT_RUN


def _progress(text: str) -> str:
    """Return how far a command is: the tests that have ended, or its last line."""
    lines = text.strip().splitlines() or ["begun"]
    ended = sum(len(found[0]) for line in lines if (found := re.match(r"[.FEsxX]+(?= *\[|$)", line)))
    return f"{ended} tests have ended" if ended else lines[-1][:120]


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, text=True, capture_output=True, check=False) if shutil.which("git") else None
    return (done.stdout.strip() if done else "") or "unknown"


def _machine() -> str:
    processors = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", processors.read_text(encoding="utf-8") if processors.exists() else "")
    memory = psutil.virtual_memory().total / 2**30
    name = model[1] if model else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def _docker_version() -> str:
    try:
        return docker("version", "--format", "{{.Server.Version}}")
    except DockerError as error:
        return f"not available: {error}"


def options(arguments: list[str] | None, everything: list[Proof]) -> argparse.Namespace:
    """Read the command line."""
    listed = "\n".join(f"  {each.name:16} {each.shows}" for each in everything)
    parser = argparse.ArgumentParser(
        prog="make verify", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Prove the system on the public images, and write a report.",
        epilog=f"proofs:\n{listed}\n\nexit code: 0 all passed on the published images, 1 one failed, "
        "3 none failed, but some were not run, or ran on stand-ins or on images that may be others",
    )  # fmt: skip
    parser.add_argument("proofs", nargs="*", metavar="PROOF", help="which proofs; all by default")
    parser.add_argument("--quick", action="store_true", help="leave out the tests that take minutes")
    parser.add_argument("--no-pull", action="store_true", help="take only images that are on this machine")
    parser.add_argument(
        "--report", type=Path, default=FOLDER / "report.md", help="the report; build/verify/report.md by default"
    )
    found = parser.parse_args(arguments)
    if unknown := set(found.proofs) - {each.name for each in everything}:
        parser.error(
            f"no such proof: {', '.join(sorted(unknown))}; choose from {', '.join(each.name for each in everything)}"
        )
    return found


def main() -> int:
    """Read the command line and verify."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    everything = proofs()
    chosen = options(None, everything)
    try:
        docker("info")
    except DockerError as error:
        sys.stderr.write(f"make verify needs a running Docker engine: {error}\n")
        return ONE_FAILED
    stop: Callable[..., object] = signal.default_int_handler
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = [each for each in everything if not chosen.proofs or each.name in chosen.proofs]
    return Verification(wanted, chosen.report.resolve(), pull=not chosen.no_pull, quick=chosen.quick).all()


if __name__ == "__main__":
    sys.exit(main())
