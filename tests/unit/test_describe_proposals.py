"""What describe-data proposes for columns that people would correct: counters, times as numbers, names, sentinels, copies."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from complex_system.describe.checking import check_file
from complex_system.describe.command import summary
from complex_system.describe.description import Description, describe, refused
from complex_system.describe.inspection import InspectedColumn
from complex_system.describe.quality import assess
from complex_system.describe.recognition import unit_of
from complex_system.domain.dataset import Dataset
from complex_system.errors import DeclarationError
from complex_system.local.own_data import choose_data
from complex_system.pipeline.pipeline import Pipeline
from complex_system.sources.replay import ReplayFile

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a CSV with columns that are computed from the row's number, a feature x and a target y."""

    def of(name: str = "a.csv", rows: int = 60, **columns: Callable[[int], object]) -> Path:
        made = {"x": lambda i: i * 7 % 13 + 0.5, "y": lambda i: i * i % 17 + 0.25, **columns}
        made["y"] = made.pop("y")  # the last column
        lines = [";".join(made), *(";".join(str(value(i)) for value in made.values()) for i in range(1, rows + 1))]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return of


def column(found: Description, name: str) -> InspectedColumn:
    return next(each for each in found.columns if each.name == name)


def plain(text: str) -> str:
    """Return YAML's comments without their line breaks."""
    return text.replace("\n  # ", " ").replace("\n# ", " ")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(lambda i: i, id="1..n"),
        pytest.param(lambda i: i - 1, id="0..n-1"),
        pytest.param(lambda i: i + i // 10, id="gaps"),
        pytest.param(lambda i: f"{i:05}", id="zeros in front"),
    ],
)
def test_a_counter_of_rows_is_not_the_key(write: Write, number: Callable[[int], object]) -> None:
    days = [write(f"day{day}.csv", **{"lfd. Nr.": number, "d": lambda i, day=day: i * day % 11}) for day in (1, 2)]
    found = describe(days[0], "y")
    dataset = found.dataset()
    assert (found.key, dataset.id) == ("", "")
    assert "lfd. Nr." in found.proposal.dropped
    monday, tuesday = (
        {row.record["_id"] for batch in ReplayFile(day, dataset).batches(100) for row in batch} for day in days
    )
    assert not monday & tuesday


def test_the_line_that_makes_a_counter_the_key_is_there_and_works_alone(write: Write) -> None:
    found = describe(write(**{"lfd. Nr.": lambda i: i}), "y")
    text = found.text()
    assert "'lfd. Nr.' counts the rows of this file." in text
    named = Dataset.parse(text.replace("# id: lfd. Nr.", "id: lfd. Nr."))
    assert named.id == "lfd. Nr."
    assert "lfd. Nr." not in named.by_name
    checked = check_file(found.path, named)
    assert (checked.refused, checked.without_key) == (0, 0)
    assert next(ReplayFile(found.path, named).batches(1))[0].record["_id"] == "1"


def test_a_number_of_the_sample_that_does_not_begin_with_one_is_a_key_in_every_format(write: Write, tmp_path: Path) -> None:
    assert describe(write(**{"Proben-Nr.": lambda i: 4000 + 3 * i}), "y").key == "Proben-Nr."
    lines = [{"sample_id": 4000 + 3 * i, "x": i * 7 % 13, "y": i * i % 17} for i in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = describe(tmp_path / "a.jsonl", "y")
    assert found.key == "sample_id"
    assert check_file(found.path, found.dataset()).without_key == 0
    assert next(ReplayFile(found.path, found.dataset()).batches(1))[0].record["_id"] == "4000"


def test_a_key_may_be_declared_and_dropped_and_nothing_else(write: Write) -> None:
    found = describe(write(charge=lambda i: f"B-{i * 7:04}"), "y")
    assert found.key == ""
    text = found.text()
    assert "# id: charge" in text
    named = text.replace("# id: charge", "id: charge")
    line_taken_out = "".join(line for line in named.splitlines(keepends=True) if "name: charge," not in line)
    for changed in (named, line_taken_out):
        dataset = Dataset.parse(changed)
        assert (dataset.id, list(dataset.by_name), [step.step for step in dataset.pipeline]) == (
            "charge",
            ["x", "y"],
            ["scale"],
        )
        assert check_file(found.path, dataset).without_key == 0
    with pytest.raises(DeclarationError, match=r"2 faults:\n.*the key 'y' must not be the target(.|\n)*unknown column 'z'"):
        Dataset.parse(text.replace("# id: charge", "id: y").replace("column: x", "column: z"))
    with pytest.raises(DeclarationError, match="must not use the key 'x'"):
        Dataset.parse(text.replace("# id: charge", "id: x"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("timestamp", lambda i: 1_711_836_000 + 1440 * i, "a time, in seconds since 1970"),
        ("timestamp", lambda i: 1_711_836_000 + 1440 * (i * 37 % 61), "a time, in seconds since 1970"),
        ("t", lambda i: 1_711_836_000_000 + 1440.5 * i, "a time, in milliseconds since 1970"),
        ("Datum", lambda i: 45_000 + i * 37 % 61, "as Excel's number of days"),
        ("Datum", lambda i: 45_000.25 + i, "as Excel's number of days"),
        ("Jahr", lambda i: 2015 + i * 7 % 9, "a year"),
        ("Kampagne", lambda i: 2015 + i // 10, "a year"),
        ("Proben-Nr.", lambda i: "" if i == 20 else 4000 + i, "a number of the record or sample"),
        ("Proben-Nr.", lambda i: f"{4000 + i + i // 7}.0" if i != 20 else "", "a number of the record or sample"),
        ("Betriebsstunden", lambda i: 812.5 + i * 1.75, "what a meter counts"),
        ("Laufmeter", lambda i: 812.5 + i * 1.75, "only rises from record to record"),
        ("Restzeit", lambda i: 9000.5 - i * 1.75, "only falls from record to record"),
    ],
)  # fmt: skip
def test_what_only_grows_is_no_feature_and_has_no_range(
    write: Write, name: str, value: Callable[[int], object], says: str
) -> None:
    found = describe(write(**{name: value}), "y")
    assert says in found.proposal.dropped[name]
    dataset = found.dataset()
    assert (dataset.column(name).range, dataset.column(name).optional) == (None, True)
    assert dataset.feature_names == ("x",)
    tomorrow = {"_id": "1", "x": 1.5, name: 1e15}
    assert Pipeline(dataset).features([tomorrow]).shape == (1, 1)
    assert Pipeline(dataset).features([{"_id": "1", "x": 1.5}]).shape == (1, 1)
    assert refused(found) == (0, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Temperatur", lambda i: 20 + i // 12 * 10),  # levels of a plan
        ("Druck", lambda i: 1990 + i * 7 % 11),
        ("E-Modul", lambda i: 1_900_000_000 + i * 37 % 61 * 1e6),
        ("Masse", lambda i: 40_000 + i * 37 % 61),
        ("Monat", lambda i: 1 + i % 12),
    ],
)
def test_a_measurement_that_looks_a_little_like_a_time_is_a_feature(
    write: Write, name: str, value: Callable[[int], object]
) -> None:
    assert describe(write(**{name: value}), "y").proposal.used == {"x", name}


def test_a_file_sorted_by_its_only_feature_can_be_learned(write: Write) -> None:
    found = describe(write(x=lambda i: i * 1.5), "y")
    assert found.proposal.used == {"x"}
    assert found.dataset().column("x").range == (0.0, 99.0)
    assert refused(found) == (0, "")


def test_numbers_that_are_whole_by_chance_take_decimals_and_counts_do_not(write: Write) -> None:
    found = describe(write(temp=lambda i: 20 + i * 7 % 11, Anzahl=lambda i: i * 3 % 40), "y")
    assert {each.name: each.type for each in found.columns} == {
        "x": "number", "temp": "number", "Anzahl": "integer", "y": "number",
    }  # fmt: skip
    assert Pipeline(found.dataset()).features([{"_id": "1", "x": 1.5, "temp": 21.5, "Anzahl": 3}]).shape == (1, 3)


def test_the_target_has_a_range_that_a_decimal_slip_leaves(write: Write) -> None:
    found = describe(write(), "y")
    low, high = found.dataset().column("y").range or (0, 0)
    top = column(found, "y").high or 0
    assert low == 0
    assert top * 1.4 < high < top * 1.6


def test_markers_and_spellings_are_named_and_nothing_is_merged(write: Write) -> None:
    coatings, works = ("none", "oil", "wax"), ("Nord", "nord", "Nord ", "Süd")
    found = describe(
        write(coating=lambda i: coatings[i % 3], werk=lambda i: works[i % 4], z=lambda i: "-" if i < 3 else i % 5.5), "y"
    )
    text = plain(found.text())
    assert "read as missing: 'none' in 20 records; where it is a value, add it to categories" in text
    assert "read as missing: '-' in 2 records;" in text
    assert "'Nord', 'Nord ', 'nord' differ only in case or blanks" in text
    assert found.dataset().column("werk").categories == ("Nord", "Nord ", "Süd", "nord")
    taken = found.text().replace("categories: [oil, wax]", "categories: [none, oil, wax]")
    assert Dataset.parse(taken).column("coating").categories == ("none", "oil", "wax")
    assert found.proposal.used == {"x", "coating", "werk", "z"}


def test_the_line_that_merges_spellings_works_and_is_a_comment(write: Write) -> None:
    works = ("Nord", "nord", "Nord", "Nord ", "Mg", "mg", "Süd")
    found = describe(write(werk=lambda i: works[i % 7]), "y")
    assert found.dataset().column("werk").spellings == {}
    assert "where these are one category" in plain(found.text()).lower()
    lines = found.text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("  # - {name: werk"))
    active = next(number for number, line in enumerate(lines) if line.startswith("  - {name: werk"))
    lines[active] = lines[place].replace("# ", "")
    dataset = Dataset.parse("\n".join(lines))
    assert dataset.column("werk").categories == ("Mg", "Nord", "Süd")
    assert dataset.column("werk").spellings == {"Mg": ("mg",), "Nord": ("Nord ", "nord")}
    assert check_file(found.path, dataset).refused == 0
    assert {row.record["werk"] for rows in ReplayFile(found.path, dataset).batches(9) for row in rows} == {
        "Mg",
        "Nord",
        "Süd",
    }


def test_whole_numbers_that_add_up_to_a_count_are_counted_and_others_are_measured(write: Write) -> None:
    good, bad = (lambda i: 20 + i * 7 % 11), (lambda i: i * 3 % 5)
    found = describe(
        write(
            temp=lambda i: 200 + i % 9, gut=good, ausschuss=bad, Anzahl=lambda i: good(i) + bad(i), druck=lambda i: 5 + i % 4
        ),
        "y",
    )
    assert {each.name: each.type for each in found.columns if each.name not in "xy"} == {
        "temp": "number", "gut": "integer", "ausschuss": "integer", "Anzahl": "integer", "druck": "number",
    }  # fmt: skip
    assert refused(found) == (0, "")


def test_the_unit_below_the_header_says_that_a_column_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Poren;Temp;y\nStk;°C;%\n" + "".join(f"{n % 9};{20 + n % 7};{n % 5},5\n" for n in range(60)))
    assert {each.name: each.type for each in describe(path, "y").columns} == {
        "Poren": "integer",
        "Temp": "number",
        "y": "number",
    }


@pytest.mark.parametrize("mark", [-9999, 999, -999.0, 99999])
def test_a_sentinel_is_a_proposal_whose_line_works(write: Write, mark: float) -> None:
    found = describe(write(temp=lambda i: mark if i % 20 == 0 else 20 + i * 7 % 11), "y")
    assert f"{mark:g} in 3 records lies far from all others" in column(found, "temp").hints[0]
    assert found.dataset().column("temp").missing_values == ()
    assert refused(found) == (0, "")
    lines = found.text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("  # - {name: temp"))
    active = next(number for number, line in enumerate(lines) if line.startswith("  - {name: temp"))
    lines[active] = lines[place].replace("# ", "")
    dataset = Dataset.parse("\n".join(lines))
    assert (dataset.column("temp").missing_values, dataset.column("temp").range) == ((mark,), (19.0, 31.0))
    assert check_file(found.path, dataset).refused == 0


@pytest.mark.parametrize("value", [lambda i: 990 + i % 10, lambda i: -1000 + i % 3, lambda i: 100 * (i % 10) + 99])
def test_a_number_of_nines_among_its_like_is_a_measurement(write: Write, value: Callable[[int], object]) -> None:
    assert not column(describe(write(temp=value), "y"), "temp").sentinels


def test_numbers_of_ovens_get_a_hint_and_stay_numbers(write: Write) -> None:
    found = describe(write(Ofen=lambda i: 1 + i % 3, Stufe=lambda i: 1 + i % 4, Anzahl=lambda i: 1 + i % 4), "y")
    assert column(found, "Ofen").hints[0].startswith("a name?")
    assert column(found, "Stufe").hints[0].startswith("a name?")
    assert not column(found, "Anzahl").hints
    assert found.proposal.used == {"x", "Ofen", "Stufe", "Anzahl"}


@pytest.mark.parametrize(
    ("name", "unit"),
    [("Feuchte %", "%"), ("temp_°C", "°C"), ("Druck bar", "bar"), ("Probe A", ""), ("Linie N", ""), ("bar", ""), ("%", ""),
     ("Durchsatz kg/h", "kg/h"), ("minimum", ""), ("Zeit min", "min")],
)  # fmt: skip
def test_units_without_brackets_are_seen_where_they_are_nothing_else(name: str, unit: str) -> None:
    assert unit_of(name) == unit


def test_copies_are_counted_in_the_description_and_before_a_run(write: Write, tmp_path: Path) -> None:
    path = write("copies.csv", 200, a=lambda i: i * 31 % 997)
    header, *rows = path.read_text().splitlines(keepends=True)
    path.write_text(header + "".join(rows * 3))
    found = describe(path, "y")
    assert "CHECK: 400 of 600 records are equal to an earlier one" in plain(found.text())
    notes = choose_data(str(path), "y", tmp_path / "runs", {}).notes
    assert any("CHECK: 400 of 600 records are equal to an earlier one but for the key" in note for note in notes)
    assert describe(write(a=lambda i: i * 31 % 997), "y").copies == 0


_DAYS = [date(2024, 1, 1) + timedelta(days=i) for i in range(61)]


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("wert", lambda i: 1_711_836_000 + i * 600, "a time, in seconds since 1970"),
        ("Datum", lambda i: f"{_DAYS[i]:%Y%m%d}", "a date, written as 20"),
        ("Zeitpunkt", lambda i: f"{_DAYS[i]:%Y%m%d}0815", "a date, written as 20"),
        ("Charge", lambda i: 48_000 + i * 3, "a number of the record or sample"),
        ("Batch", lambda i: 20_240_000 + i * 3, "a number of the record or sample"),
        ("Betriebsstunden", lambda i: 12_000 + i * 1.7, "what a meter counts"),
        ("Prüfung", lambda i: 45_000 + i, "as Excel's number of days"),
        ("Prüfung", lambda i: 45_003 + 7 * (i // 5) + i % 5 - 4, "as Excel's number of days"),
        ("Probe vom", lambda i: 45_000 + i * 37 + 517 / 1440, "as Excel's number of days"),
        ("Charge", lambda i: 45_000 + i, "a number of the record or sample"),
    ],
)
def test_what_only_grows_is_seen_in_a_file_of_any_order(
    write: Write, name: str, values: Callable[[int], object], why: str
) -> None:
    found = describe(write(**{name: lambda i: values(i * 37 % 61)}), "y")
    assert why in found.proposal.dropped[name]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("R", lambda i: 1_000_000_000 + i * i * 250_000),  # ohms, as large as seconds since 1970
        ("Last", lambda i: 19_600_101 + i * 1_399),
        ("Sample mass", lambda i: 1000 + i * 3),
        ("p", lambda i: 100_000 + i * 11),
        ("n [1/min]", lambda i: 45_000 + i),
        ("Masse", lambda i: 45_000 + i * 11),
        ("Masse", lambda i: 45_000 + i * 0.37),
    ],
)
def test_large_numbers_that_do_not_grow_stay_features(write: Write, name: str, values: Callable[[int], object]) -> None:
    assert name in describe(write(**{name: lambda i: values(i * 37 % 61)}), "y").proposal.used


def test_measurements_that_came_out_alike_are_told_from_copies(write: Write, tmp_path: Path) -> None:
    """A few settings and whole grades: grouped by what is equal, the hold-out part would have a few contents only."""
    grades = random.Random(2)
    trials = write(
        "trials.csv", 400, time=lambda i: f"2025-01-{1 + i // 24:02d} {i % 24:02d}:00",
        x=lambda i: 1.5 + i % 2, temperature=lambda i: 150 + 30 * (i * 7 % 4),
        y=lambda i: round((150 + 30 * (i * 7 % 4)) / 50 + grades.gauss(0, 1.5)),
    )  # fmt: skip
    found = describe(trials, "y")
    assert found.copies == 0
    assert "records have the features and the target of an earlier one, and most records with the same" in plain(
        found.text()
    )
    assert "\nsplit: {by: time, copies: apart}\n" in found.text()
    assert not found.dataset().copies_together
    path = write("copies.csv", 200, a=lambda i: i * 31 % 997)
    header, *rows = path.read_text().splitlines(keepends=True)
    path.write_text(header + "".join(rows * 3))
    assert "split:" not in describe(path, "y").text()


def test_equal_rows_with_keys_and_row_numbers_of_their_own_are_copies(write: Write) -> None:
    path = write(charge_id=lambda i: f"B{i * 3}", Zeile=lambda i: i, x=lambda i: i % 5, y=lambda i: i % 5 + 0.5)
    assert describe(path, "y").copies == 55


def test_the_table_fits_eighty_columns(write: Write) -> None:
    found = describe(write(**{"Vorlauftemperatur Zone 3 [°C]": lambda i: 100 + i * 7 % 11, "lfd. Nr.": lambda i: i}), "y")
    console = Console(width=80)
    with console.capture() as captured:
        console.print(summary(found))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("Vorlauftemperatur Zone" in line and "100 to 110" in line for line in lines), captured.get()
    assert any(line.startswith("  lfd. Nr.: counts the records") for line in lines)


def test_a_batch_that_differs_in_every_record_is_offered_as_key_and_a_remark_is_not_a_category(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    remarks = ["", "Nacharbeit", "Hr. Müller"]
    lines = [f"C-{24000 + 3 * n};{n * 7 % 60},5;{remarks[n % 3]};{n * 11 % 60},5\n" for n in range(60)]
    path.write_text("Charge;x;Bemerkung;y\n" + "".join(lines))
    found = describe(path, "y")
    text = found.text()
    assert "\n# id: Charge\n" in text
    assert "  - {name: Bemerkung, type: text, optional: true}" in text
    assert "columns: [Charge, Bemerkung]" in text
    # What the comment says works as it stands.
    assert Dataset.parse(text.replace("# id: Charge", "id: Charge"), "a").id == "Charge"


def test_values_below_a_limit_are_said_once_and_are_not_missing_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [f"{'<0,01' if n % 3 == 0 else f'0,{10 + n}'};{n * 7 % 60},5;{n * 11 % 60},5\n" for n in range(60)]
    path.write_text("Pb;x;y\n" + "".join(lines))
    found = describe(path, "y")
    assert found.text().count("detection limit") == 1
    lead = next(column for column in assess(found).columns if column.column.name == "Pb")
    assert lead.profile.missing.count == 0


def shown(found: Description) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(summary(found))
    return capture.get()


def at(hours: float) -> str:
    return (datetime(2025, 3, 29) + timedelta(hours=hours)).strftime("%d.%m.%Y %H:%M")


@pytest.mark.parametrize(
    ("value", "declared", "why"),
    [
        pytest.param(at, {"column": "Zeit"}, "'Zeit' rises from row to row, so it says when", id="rising"),
        pytest.param(lambda i: at(-i), {"column": "Zeit"}, "'Zeit' falls from row to row", id="falling"),
        pytest.param(lambda i: at(i // 3), {"column": "Zeit"}, "'Zeit' rises", id="several at a time"),
        pytest.param(lambda i: 1.7e9 + 60.5 * i, {"column": "Zeit", "format": "unix"}, "'Zeit' rises", id="seconds"),
        pytest.param(
            lambda i: 1_700_000_000_123 + 60_007 * i, {"column": "Zeit", "format": "unix_ms"}, "'Zeit' rises", id="ms"
        ),
    ],
)
def test_a_time_that_orders_the_rows_is_proposed(write: Write, value: object, declared: dict[str, str], why: str) -> None:
    found = describe(write(Zeit=value))
    assert found.time is not None
    assert found.time.declared == declared
    text = plain(found.text())
    assert why in text
    assert ("add the plant's zone" in text) is ("format" not in declared)
    dataset = found.dataset()
    assert dataset.time is not None
    assert dataset.time.dict(exclude_defaults=True) == declared
    assert "time 'Zeit'" in shown(found)
    assert dataset.version == Dataset.parse(found.text().replace("\ntime: ", "\n# time: ")).version


def test_a_time_in_another_order_is_a_line_for_a_person_and_few_times_are_no_order(write: Write) -> None:
    for name, value in {"any.csv": lambda i: at(i * 7 % 61), "few.csv": lambda i: at(24 * (i // 30))}.items():
        found = describe(write(name, Zeit=value))
        assert found.dataset().time is None
        assert "Where 'Zeit' says when a record was made, remove the '#'" in plain(found.text())
        assert "\n# time: {column: Zeit}\n" in found.text()
        assert "time 'Zeit'" not in shown(found)
    assert "time:" not in describe(write("none.csv")).text()


def test_of_several_times_that_order_the_rows_the_finest_is_proposed(write: Write) -> None:
    found = describe(write(Tag=lambda i: at(24 * (i // 5))[:10], Start=at, Ende=lambda i: at(i + 1)))
    assert found.time is not None
    assert found.time.column == "Start"
