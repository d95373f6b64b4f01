"""Which published vulnerabilities `make audit` counts."""

from __future__ import annotations

from datetime import date

import audit
import pytest

TODAY = date(2026, 11, 29)
FOUND = audit.Finding("constraints.txt", "mlflow", "3.5.1", ("PYSEC-2026-7", "CVE-2026-2614"), ("3.9.0",))


def entry(name: str, until: str) -> str:
    return f'[[accepted]]\nid = "{name}"\nuntil = {until}\nreason = "The client has no server."\n'


@pytest.mark.parametrize("name", FOUND.ids)
def test_an_accepted_finding_is_said_and_not_counted(name: str) -> None:
    to_do, notes = audit.judge([FOUND], audit.accepted_findings(entry(name, "2026-11-29")), TODAY)
    assert to_do == []
    [note] = notes
    assert "mlflow 3.5.1" in note
    assert "accepted until 2026-11-29: The client has no server." in note


def test_a_finding_counts_again_after_its_date() -> None:
    to_do, notes = audit.judge([FOUND], audit.accepted_findings(entry("CVE-2026-2614", "2026-11-28")), TODAY)
    assert to_do == ["constraints.txt: mlflow 3.5.1: PYSEC-2026-7, CVE-2026-2614; fixed in 3.9.0"]
    assert notes == ["audit.toml: CVE-2026-2614 was accepted until 2026-11-28"]


def test_what_is_no_longer_found_is_to_be_removed() -> None:
    to_do, notes = audit.judge([], audit.accepted_findings(entry("CVE-2020-1", "2027-01-01")), TODAY)
    assert to_do == []
    assert notes == ["audit.toml: CVE-2020-1 is no longer found; remove it"]


def test_every_accepted_finding_has_a_reason_and_a_date() -> None:
    for each in audit.accepted_findings(audit.ACCEPTED.read_text(encoding="utf-8")):
        assert len(each.reason) > 20, each.id
        assert isinstance(each.until, date), each.id
