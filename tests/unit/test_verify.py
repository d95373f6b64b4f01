"""What ``make verify`` makes of images and proofs; Docker is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typing_extensions import override

from verify.images import IMAGES, Image
from verify.run import ALL_PASSED, FAILED, INCOMPLETE, NOT_RUN, ONE_FAILED, PASSED, Proof, Verification, proofs

ROOT = Path(__file__).parents[2]


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
    def command(self, proof: Proof) -> tuple[str, bool]:
        return "1 failed" if "fails" in proof.name else "2 passed", "fails" not in proof.name


@pytest.mark.parametrize(
    ("names", "doubts", "results", "code"),
    [
        (["good"], [], [PASSED], ALL_PASSED),
        (["good"], ["built here"], [PASSED], INCOMPLETE),
        (["good", "grafana"], [], [PASSED, NOT_RUN], INCOMPLETE),
        (["good", "fails", "grafana"], [], [PASSED, FAILED, NOT_RUN], ONE_FAILED),
    ],
)
def test_the_report_and_the_exit_code_never_take_more_for_passed_than_was_shown(
    tmp_path: Path, names: list[str], doubts: list[str], results: list[str], code: int
) -> None:
    wanted = [Proof(name, "it", ("grafana",) if name == "grafana" else ("nats",), files=("x",)) for name in names]
    made = Without(wanted, tmp_path / "report.md", pull=False, quick=False)
    made.images |= {
        "nats": Image("nats", "nats:2.15", doubts=doubts, version="2.15.1"),
        "grafana": Image("grafana", "grafana:1"),
    }
    assert made.all() == code
    assert [each.result for each in wanted] == results
    report = made.report.read_text()
    assert ("image not available: no such host" in report) == ("grafana" in names)
    assert ("| passed, on stand-ins |" in report) == bool(doubts)
    assert ("built here" in report) == bool(doubts)


def test_every_proof_names_files_and_images_that_are_there() -> None:
    for proof in proofs():
        assert set(proof.images) <= set(IMAGES)
        assert [file for file in proof.files if not (ROOT / file).is_file()] == []
        assert {name.partition("-")[0] for name in proof.servers} <= set(proof.images)
