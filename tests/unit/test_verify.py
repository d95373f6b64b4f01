"""What ``make verify`` makes of images and proofs; Docker is not needed."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.errors import OperationFailure
from typing_extensions import override

import verify.run as module
from verify.images import IMAGES, Image
from verify.run import (
    ALL_PASSED,
    FAILED,
    INCOMPLETE,
    NONE_SELECTED,
    NOT_RUN,
    ONE_FAILED,
    OWN_SERVER,
    PASSED,
    Proof,
    Verification,
    judged,
    proofs,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Gives signals back to this process: a run ignores them at its end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("name", "reference", "version", "product", "doubted"),
    [
        ("mongo", "mongo:8.0", "8.0.12", "", False),
        ("mongo", "mongo:8.0", "8.0.12", "SecantusDB 0.7", True),
        ("mariadb", "mariadb:11.4", "11.4.5-MariaDB-ubu2404", "", False),
        ("mariadb", "mariadb:11.4", "11.8.1-MariaDB-ubu2404", "", True),
        ("mariadb", "mariadb:11.4", "11.4.5-MariaDB-0+deb13u1", "", True),
        ("nats", "nats:2.15-alpine", "2.15.1", "", False),
        ("mlflow", "ghcr.io/mlflow/mlflow:v3.17.2-full", "3.17.2", "", False),
        ("mlflow", "registry:5000/mlflow:v3.17.2-full", "3.17.20", "", True),
    ],
)
def test_an_image_is_judged_by_what_its_server_says(
    name: str, reference: str, version: str, product: str, doubted: bool
) -> None:
    image = Image(name, reference)
    image.heard(version, product)
    assert bool(image.doubts) == doubted


class Without(Verification):
    """Looks at no image, and runs nothing."""

    @override
    def look(self) -> None:
        self.images["grafana"].missing = "image not available: no such host"

    @override
    def command(self, proof: Proof) -> tuple[str, str]:
        if "says nothing" in proof.name:
            raise OperationFailure("")
        return ("1 failed", FAILED) if "fails" in proof.name else ("2 passed", PASSED)


@pytest.mark.parametrize(
    ("names", "image", "results", "code"),
    [
        (["good"], {}, [PASSED], ALL_PASSED),
        (["good"], {"doubts": ["built here"]}, [PASSED], INCOMPLETE),
        (["good"], {"version": ""}, [PASSED], INCOMPLETE),
        (["good"], {"uncertain": "origin not certain"}, [PASSED], INCOMPLETE),
        (["good", "grafana"], {}, [PASSED, NOT_RUN], INCOMPLETE),
        (["good", "fails", "grafana"], {}, [PASSED, FAILED, NOT_RUN], ONE_FAILED),
        (["says nothing", "good"], {}, [FAILED, PASSED], ONE_FAILED),
    ],
)
def test_the_report_and_the_exit_code_never_take_more_for_passed_than_was_shown(
    tmp_path: Path, names: list[str], image: dict[str, Any], results: list[str], code: int
) -> None:
    wanted = [Proof(name, "it", ("grafana",) if name == "grafana" else ("nats",), files=("x",)) for name in names]
    made = Without(wanted, tmp_path / "report.md", pull=False, quick=False)
    made.images |= {
        "nats": Image("nats", "nats:2.15", **{"version": "2.15.1", **image}),
        "grafana": Image("grafana", "grafana:1"),
    }
    assert made.all() == code
    assert [each.result for each in wanted] == results
    report = made.report.read_text()
    assert ("image not available: no such host" in report) == ("grafana" in names)
    assert ("| passed, on stand-ins |" in report) == ("built here" in report) == ("doubts" in image)
    assert ("Perhaps not on the published images, see the table: nats:2.15." in report) == bool(
        {"version", "uncertain"} & set(image)
    )
    assert ("| the published image |" in report) == (not image)
    assert ("| OperationFailure |" in report) == ("says nothing" in names)


def test_every_proof_names_files_and_images_that_are_there() -> None:
    for proof in proofs():
        assert set(proof.images) <= set(IMAGES)
        assert [file for file in proof.files if not (ROOT / file).is_file()] == []
        assert {name.partition("-")[0] for name in proof.servers} <= set(proof.images)


def test_an_image_whose_server_cannot_be_asked_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def started(*_: object) -> Any:
        yield SimpleNamespace(server=None)

    def fail(*_: object) -> None:
        raise OperationFailure("no reply")

    monkeypatch.setattr(Image, "look", lambda image, *, pull: image.judge({}, every_image_has_a_digest=pull))  # a KeyError
    wanted = [Proof("a", "it", ("nats",), files=("x",))]
    made = Verification(wanted, tmp_path / "report.md", pull=False, quick=False)
    assert made.all() == INCOMPLETE
    assert "Docker describes it in another way than expected: 'Id'" in made.report.read_text()

    monkeypatch.setattr(Image, "look", lambda image, *, pull: None)
    monkeypatch.setattr(module, "started", started)
    monkeypatch.setattr(module, "ask_version", fail)
    made = Verification(wanted, tmp_path / "report.md", pull=False, quick=False)
    assert made.all() == ONE_FAILED
    assert "does not start: no reply" in made.report.read_text()


@pytest.mark.parametrize(
    ("name", "described", "containerd", "doubted", "uncertain"),
    [
        ("nats", {"Env": ["NATS_SERVER=2.15.1"]}, True, False, False),
        ("nats", {"Env": ["PATH=/bin"]}, True, True, False),
        ("nats", {}, True, True, False),
        ("prometheus", {"Labels": {"maintainer": "The Prometheus Authors <a@b>"}}, True, False, False),
        ("prometheus", {"Labels": None}, True, True, False),
        ("mlflow", {"Env": None}, False, False, False),
        ("mlflow", {"Env": None}, True, False, True),
    ],
)
def test_an_image_with_a_digest_is_published_only_if_its_store_or_something_in_it_says_so(
    name: str, described: dict[str, Any], containerd: bool, doubted: bool, uncertain: bool
) -> None:
    image = Image(name, f"{name}:1")
    image.judge(
        {"Id": "sha256:1", "RepoDigests": [f"{name}@sha256:2"], "Config": described}, every_image_has_a_digest=containerd
    )
    assert image.digest == "sha256:2"
    assert (bool(image.doubts), bool(image.uncertain)) == (doubted, uncertain)
    image.judge({"Id": "sha256:1", "RepoDigests": [], "Config": described}, every_image_has_a_digest=False)
    assert "built on this machine (no digest of a registry)" in image.doubts


@pytest.mark.parametrize(
    ("code", "said", "result"),
    [
        (0, "10 passed, 2 skipped in 3.1s", PASSED),
        (0, "2 skipped, 3 deselected in 3.10s", NOT_RUN),
        (1, "1 failed, 10 passed in 61.20s (0:01:01)", FAILED),
        (NONE_SELECTED, "10 deselected in 0.01s", NOT_RUN),
    ],
)
def test_tests_that_were_skipped_or_not_selected_show_nothing(code: int, said: str, result: str) -> None:
    assert judged(code, ["SKIPPED [1] a.py:1: why", said, "a warning"], quick=True)[1] == result


def selected(proof: Proof, *, quick: bool) -> tuple[int, str]:
    """Ask pytest which tests a proof has."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        *proof.selection(quick=quick),
        "--collect-only",
        "--verbose",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode in (0, NONE_SELECTED), done.stdout + done.stderr
    return done.returncode, done.stdout


@pytest.mark.long
@pytest.mark.parametrize("proof", [each for each in proofs() if each.files], ids=lambda proof: proof.name)
def test_every_proof_selects_tests_of_all_its_files(proof: Proof) -> None:
    _, everything = selected(proof, quick=False)
    for file in proof.files:
        assert Path(file).name in everything
    for name in proof.left_out:
        assert name not in everything
    code, _ = selected(proof, quick=True)
    # All of MongoDB's faults take minutes.
    assert (judged(code, [""], quick=True)[0] == "none of its tests is selected: they all take minutes (--quick)") == (
        proof.name == "faults-mongo"
    )


@pytest.mark.parametrize("proof", [each for each in proofs() if each.files], ids=lambda proof: proof.name)
def test_tests_that_start_a_server_of_their_own_are_left_out(proof: Proof) -> None:
    functions = [
        each
        for file in proof.files
        for each in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test_")
    ]
    assert set(proof.left_out) <= {each.name for each in functions}
    own = {
        each.name for each in functions
        if {"default_nats_server", "clients_mlflow_server"} & {argument.arg for argument in each.args.args}
        or any(isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id.endswith("Server")
               and any(word.arg == "port" for word in call.keywords) for call in ast.walk(each))
    }  # fmt: skip
    assert own == {name for name, why in proof.left_out.items() if why == OWN_SERVER}
