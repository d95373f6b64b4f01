"""The data-quality report: every planted fault is found with its rows, sound data are left alone, and nothing of a file is markup."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from complex_system.describe import profile as profiling
from complex_system.describe import repetitions, sampling
from complex_system.describe.command import describe_to
from complex_system.describe.description import describe
from complex_system.describe.findings import Finding, findings_of, worth_a_look
from complex_system.describe.quality import Quality, assess
from complex_system.describe.report import report
from complex_system.errors import DescribeError

ROWS = 1200
Write = Callable[..., Path]


def plant(**columns: Any) -> dict[str, Any]:
    """Sound columns of a plant with times, ovens and a yield, which ``columns`` add to or replace."""
    random = np.random.default_rng(3)
    start = datetime(2025, 1, 6, 6)
    temp = np.round(random.normal(231.5, 4, ROWS), 1)
    sound: dict[str, Any] = {
        "Zeit": [(start + timedelta(minutes=15 * i)).strftime("%Y-%m-%d %H:%M") for i in range(ROWS)],
        "Temp [°C]": temp,
        "Feuchte [%]": np.round(random.gamma(3, 4, ROWS), 1),
        "Stufe": random.integers(1, 6, ROWS),
        "Farbe": random.choice(["rot", "blau"], ROWS),
        "Ausbeute": np.round(60 + 0.4 * (temp - 230) + random.normal(0, 1.2, ROWS), 2),
    }
    return {**sound, **columns, "Ausbeute": columns.get("Ausbeute", sound["Ausbeute"])}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(columns: dict[str, Any], name: str = "plant.csv") -> Path:
        frame = pl.DataFrame({key: list(values) for key, values in columns.items()}, strict=False)
        path = tmp_path / name
        frame.write_parquet(path) if name.endswith("parquet") else frame.write_csv(path)
        return path

    return write


def assessed(path: Path) -> tuple[Quality, list[Finding]]:
    quality = assess(describe(path, "Ausbeute"))
    return quality, findings_of(quality)


def one(findings: list[Finding], kind: str) -> Finding:
    found = [finding for finding in findings if finding.kind == kind]
    assert len(found) == 1, (kind, findings)
    return found[0]


def test_sound_data_have_no_findings(write: Write) -> None:
    quality, findings = assessed(write(plant()))
    assert findings == []
    assert "Nothing stands out" in report(quality)


def test_sentinels_are_codes_or_repeated_values_far_from_all_others(write: Write) -> None:
    columns = plant()
    columns["Temp [°C]"][[9, 99, 100]] = -9999
    columns["Feuchte [%]"][[4, 5, 6, 7]] = 500
    _, findings = assessed(write(columns))
    found = {finding.column: finding for finding in findings if finding.kind == "sentinel"}
    assert found["Temp [°C]"].rows == (10, 100, 101)
    assert "missing_values: [-9999]" in found["Temp [°C]"].advice
    assert found["Feuchte [%]"].rows == (5, 6, 7, 8)
    assert {finding.kind for finding in findings} == {"sentinel"}
    described = {column.name: column.sentinels for column in describe(write(columns), "Ausbeute").columns}
    assert (described["Temp [°C]"], described["Feuchte [%]"], described["Stufe"]) == ((-9999.0,), (500.0,), ())


def test_levels_of_a_plan_and_a_single_high_value_are_no_codes(write: Write) -> None:
    levels = np.random.default_rng(4).choice([10, 20, 100], ROWS)
    quality, _ = assessed(write(plant(Stufe=levels, Last=np.append(np.linspace(20, 30, ROWS - 1), 500))))
    assert all(not column.sentinels and not column.column.sentinels for column in quality.columns)


@pytest.mark.parametrize("factor", [10, 0.1, 1000, 0.001])
def test_misplaced_decimal_signs_are_found_with_their_rows(write: Write, factor: float) -> None:
    columns = plant()
    columns["Temp [°C]"][[41, 700]] = [231.5 * factor, 229.9 * factor]
    _, findings = assessed(write(columns))
    assert one(findings, "decimal slip").rows == (42, 701)
    assert not [finding for finding in findings if finding.kind == "outliers"]


def test_outliers_are_far_from_the_median_on_their_side(write: Write) -> None:
    columns = plant()
    columns["Temp [°C]"][90] = 310
    quality, findings = assessed(write(columns))
    assert (one(findings, "outliers").rows, one(findings, "outliers").count) == ((91,), 1)
    assert all(not column.outliers.count for column in quality.columns if column.column.name != "Temp [°C]")


def test_copies_are_rows_that_are_equal_in_all_columns_but_the_key(write: Write) -> None:
    columns = plant(**{"Charge Nr": [f"C-{i:05d}" for i in range(ROWS)]})
    for values in columns.values():
        if values is not columns["Charge Nr"]:
            values[500:503] = values[10:13]
    quality, findings = assessed(write(columns))
    assert quality.description.key == "Charge Nr"
    copies = one(findings, "copies")
    assert (copies.count, copies.rows) == (3, (501, 502, 503))
    assert "11 = 501; 12 = 502; 13 = 503" in copies.detail
    assert "in every column but ‘Charge Nr’:" in copies.detail
    _, findings = assessed(write({"Nr": np.arange(1, ROWS + 1), **columns}))
    assert one(findings, "copies").count == 3
    assert "in every column but ‘Nr’ and ‘Charge Nr’:" in one(findings, "copies").detail


def test_constant_nearly_constant_and_empty_columns(write: Write) -> None:
    valve = ["zu"] * ROWS
    valve[66] = valve[1100] = "auf"
    _, findings = assessed(write(plant(Werk=["Aachen"] * ROWS, Ventil=valve, Leer=[None] * ROWS)))
    assert one(findings, "constant").column == "Werk"
    assert (one(findings, "nearly constant").rows, one(findings, "nearly constant").count) == ((67, 1101), 2)
    assert one(findings, "empty").column == "Leer"


def test_leakage_by_correlation_and_by_missing_together(write: Write) -> None:
    columns = plant()
    random = np.random.default_rng(5)
    target = columns["Ausbeute"].astype(object)
    target[random.random(ROWS) < 0.2] = None
    gone = np.array([value is None for value in target])
    measured = np.where(gone, None, np.round(random.normal(7, 0.5, ROWS), 2))
    noisy = np.round(columns["Ausbeute"] + random.normal(0, 0.2, ROWS), 2)
    quality, findings = assessed(write(plant(Ausbeute=target, Labor=measured, Note=noisy)))
    leaking = {finding.column: finding for finding in findings if finding.kind == "leakage"}
    assert leaking.keys() == {"Labor", "Note"}
    assert leaking["Labor"].rows == tuple((np.flatnonzero(gone)[:8] + 1).tolist())
    related = {column.column.name: column.relation for column in quality.columns}
    assert related["Ausbeute"] is None
    assert related["Temp [°C]"] == pytest.approx(0.79, abs=0.03)
    assert related["Farbe"] == pytest.approx(0, abs=0.1)


def test_gaps_and_steps_back_in_time(write: Write) -> None:
    columns = plant()
    start = datetime(2025, 1, 6, 6)
    moments = [start + timedelta(minutes=15 * i, days=9 if i >= 800 else 0) for i in range(ROWS)]
    moments[300], moments[301] = moments[301], moments[300]
    columns["Zeit"] = [moment.strftime("%Y-%m-%d %H:%M") for moment in moments]
    quality, findings = assessed(write(columns))
    assert one(findings, "gap").rows == (801,)
    assert "between rows 800 and 801" in one(findings, "gap").detail
    assert one(findings, "order").rows == (302,)
    assert "9.0 days" in report(quality)


def test_groups_stand_together_or_have_such_a_name(write: Write) -> None:
    block = [f"x{i // 24}" for i in range(ROWS)]
    mixed = np.random.default_rng(1).choice(["Ofen 1", "Ofen 2", "Ofen 3"], ROWS)
    quality, findings = assessed(write(plant(Block=block, Ofen=mixed)))
    groups = {group.column: group for group in quality.groups}
    assert groups.keys() == {"Block", "Ofen"}
    assert (groups["Block"].groups, groups["Block"].median_size, groups["Block"].is_contiguous) == (50, 24, True)
    assert groups["Block"].rows[:3] == (1, 25, 49)
    assert not groups["Ofen"].is_contiguous
    assert one(findings, "groups").column == "Block"


def test_five_findings_are_at_the_top_of_several_kinds() -> None:
    findings = [Finding(90 - i, "sentinel", f"x{i}", "", "", "") for i in range(6)]
    findings += [Finding(20 - i, f"kind {i}", "", "", "", "") for i in range(2)]
    assert [finding.kind for finding in worth_a_look(findings)] == ["sentinel"] * 3 + ["kind 0", "kind 1"]


def test_a_large_file_is_sampled_and_its_counts_stay_exact(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = plant()
    columns["Temp [°C]"][[9, 99, 1100]] = -9999
    path = write(columns, "plant.parquet")
    whole, _ = assessed(path)
    monkeypatch.setattr(sampling, "SAMPLE_ROWS", 400)
    monkeypatch.setattr(repetitions, "IN_MEMORY", 500)
    monkeypatch.setattr(profiling, "PART_ROWS", 100)
    sampled, findings = assessed(path)
    assert whole.profile.is_whole
    assert not sampled.profile.is_whole
    assert 100 <= len(sampled.profile.at) <= 400
    assert one(findings, "sentinel").rows == (10, 100, 1101)
    for before, after in zip(whole.columns, sampled.columns, strict=True):
        assert before.profile.missing == after.profile.missing
        if before.profile.kind == "number":
            lowest = sorted(before.profile.extremes)[:64]
            assert sorted(after.profile.extremes)[:64] == lowest
            assert [before.profile.extremes[each] for each in lowest] == [after.profile.extremes[each] for each in lowest]
        if before.summary and after.summary and before.profile.kind == "number":
            width = before.summary.high_quarter - before.summary.low_quarter
            assert after.summary.median == pytest.approx(before.summary.median, abs=0.3 * width + 1e-9)
    assert f"a random sample of {len(sampled.profile.at)} rows" in report(sampled)


def test_a_large_file_is_described_by_a_sample_that_misses_nothing_that_decides(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = plant(
        Nr=np.arange(1, ROWS + 1),
        **{"Charge Nr": [f"C-{i:05d}" for i in range(ROWS)]},
        Stufe=np.where(np.arange(ROWS) == 1000, "Sonderstufe", np.where(np.arange(ROWS) % 2, "a", "b")),
        Kennzahl=np.where(np.arange(ROWS) == 1003, 812.5, np.arange(ROWS) * 7 % 90).astype(float),
        Vermerk=[None if i % 5 == 3 else ("7" if i != 901 else "k") for i in range(ROWS)],
        Form=["0012" if i == 1005 else str(i * 7 % 613) for i in range(ROWS)],
    )
    for name, values in columns.items():
        if name not in ("Nr", "Charge Nr"):
            values[700:702] = values[600:602]
    path = write(columns)
    whole = describe(path, "Ausbeute")
    monkeypatch.setattr(sampling, "SAMPLE_ROWS", 400)
    monkeypatch.setattr(sampling, "PART_ROWS", 100)
    monkeypatch.setattr(repetitions, "IN_MEMORY", 500)
    sampled = describe(path, "Ausbeute")
    assert "a random sample" in sampled.notes[0]
    assert sampled.checked is not None
    assert sampled.checked.refused == 0
    assert (
        (sampled.records, sampled.key, sampled.copies) == (ROWS, "Charge Nr", 2) == (whole.records, whole.key, whole.copies)
    )
    for before, after in zip(whole.columns, sampled.columns, strict=True):
        assert (after.name, after.type, after.missing, after.categories, after.format, after.range, after.unit) == (
            before.name, before.type, before.missing, before.categories, before.format, before.range, before.unit
        )  # fmt: skip
        assert (after.growth and after.growth.kind) == (before.growth and before.growth.kind)
    # A number that repeats outside of the sample makes a column no key.
    monkeypatch.setattr(sampling.RowSample, "found", lambda self: sampling.pl.concat([p for _, p in self._parts]).head(300))
    columns["Charge Nr"][1100] = columns["Charge Nr"][1099]
    found = describe(write(columns), "Ausbeute")
    assert (found.key, found.offered_key and found.offered_key.name) == ("", "Nr")
    assert "repeated: 1 record(s) have the value of an earlier one" in found.proposal.dropped["Charge Nr"]


def test_names_and_texts_of_the_file_are_no_markup(write: Write) -> None:
    evil = "<script>alert(1)</script>"
    texts = [evil if i % 3 else '"><img src=x onerror=alert(1)>' for i in range(ROWS)]
    path = write(plant(**{evil: texts, "a\u202eb' onload=x": np.arange(ROWS) % 7, "x [<b>]": [5.0] * ROWS}), "<i>plant.csv")
    page = report(assessed(path)[0])
    assert not re.search(r"<(script|img|b|i)\b", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\u202e" not in page
    used: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda _, attributes: used.update(name for name, _ in attributes)  # type: ignore[method-assign]
    parser.feed(page)
    assert not [name for name in used if name.startswith("on") or name in ("style", "src")]


@pytest.mark.parametrize(
    "columns",
    [
        {"a": [1, 2], "Ausbeute": [1.0, 2.0]},
        {"a": [1e29, -1e29, 0, 5], "Ausbeute": [1.0, 2.0, 2.5, 1e-20]},
        {"a": [True, False, None], "b": ["x", "x", "y"], "Ausbeute": [3, None, 5]},
        {"a": [["x"], ["y", "z"], None, ["x"]], "b": [1, 2, 4, 8], "Ausbeute": [3, 1, 5, 2]},
        {"Tag": ["01.02.2025", "02.02.2025", None], "b": [1, 2, 4], "Ausbeute": [3, 1, 5]},
    ],
)
def test_small_and_odd_files_have_a_report(write: Write, columns: dict[str, Any]) -> None:
    page = report(assessed(write(columns, "odd.parquet"))[0])
    assert page.count("<tr") > len(columns)
    assert "nan" not in page
    assert "inf" not in page.replace("information", "")


def test_the_report_is_written_beside_the_declaration(write: Write, tmp_path: Path) -> None:
    path, out, err = write(plant()), io.StringIO(), io.StringIO()
    declaration, page = tmp_path / "out" / "dataset.yaml", tmp_path / "out" / "report.html"
    describe_to(path, "Ausbeute", declaration, force=False, report=page, out=out, err=err)
    assert f"{page} written" in out.getvalue()
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    declaration.unlink()
    describe_to(path, "Ausbeute", declaration, force=False, report=page, out=out, err=err)  # its own report is replaced
    declaration.unlink()
    page.write_text("mine", encoding="utf-8")
    with pytest.raises(DescribeError, match="is not a report of this command; --force replaces it"):
        describe_to(path, "Ausbeute", declaration, force=False, report=page, out=out, err=err)
    assert page.read_text(encoding="utf-8") == "mine"
    assert not declaration.exists()
