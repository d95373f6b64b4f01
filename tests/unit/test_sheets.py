"""Text tables and spreadsheets as people write them: records are lines, and what is not a record is left out with a note."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from complex_system.describe.description import describe
from complex_system.domain.columns import Column
from complex_system.errors import SourceFileError
from complex_system.sources.base import ROW, Table
from complex_system.sources.sheets import CsvTable
from complex_system.sources.tables import table_at
from spreadsheets import write_cells, write_excel


def table(folder: Path, text: str | bytes, name: str = "a.csv") -> Table:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return table_at(path)


def rows(found: Table) -> list[dict[str, Any]]:
    """All rows as texts, checked against the number of rows that the file is said to have."""
    names, count = found.outline()
    read = [row for _, chunk in found.chunks(dict.fromkeys(names), 3) for row in chunk if isinstance(row, dict)]
    assert len(read) == count
    return read


# Rows (T06)


def test_a_mark_inside_a_field_is_a_character_and_merges_no_rows(tmp_path: Path) -> None:
    lines = ['0.5,"3/4" pipe",0.25', '1.5,3/4" pipe,1.25', '2.5,"3/4"" pipe",2.25', "3.5,pipe,3.25", '4.5,"a, b",4.25']
    found = table(tmp_path, "a,remark,y\n" + "\n".join(lines) + "\n")
    assert [(row["a"], row["remark"], row["y"]) for row in rows(found)] == [
        ("0.5", '3/4" pipe', "0.25"), ("1.5", '3/4" pipe', "1.25"), ("2.5", '3/4" pipe', "2.25"), ("3.5", "pipe", "3.25"),
        ("4.5", "a, b", "4.25"),
    ]  # fmt: skip
    assert found.notes == (
        "2 line(s) have quotation marks inside a field, which are read as characters; the first is line 2",
    )


def test_two_marks_in_two_rows_do_not_swallow_the_rows_between(tmp_path: Path) -> None:
    lines = [f"{number},{'5' if number not in (3, 30) else '3/4' + chr(34)},{number}.5" for number in range(60)]
    found = rows(table(tmp_path, "a,part,y\n" + "\n".join(lines)))
    assert [row["y"] for row in found] == [f"{number}.5" for number in range(60)]


def test_a_quoted_field_may_hold_line_ends(tmp_path: Path) -> None:
    found = table(tmp_path, b'a,remark,y\r\n1,"first\r\nsecond, third",2\r\n\r\n3,"",4\r\n')
    assert [row["remark"] for row in rows(found)] == ["first\r\nsecond, third", None]
    assert found.notes == ()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('1,"3/4 pipe,0.5\n2,"1/2 pipe,0.7\n3,x,1\n', "line 2: the mark that opens a field is not closed"),
        ('1,x,0.5\n2,"abc,0.6\n3,def",0.7\n', "line 3: lines 3 to 4 can be one record or 2"),
        ('1,x,0.5\n2,"open,0.6\n3,x,0.7\n', "line 3: the mark that opens a field is not closed"),
        ('1,x,0.5\n2,"a" b",0.6,1\n', "line 3: it has 4 fields where the header has 3"),
    ],
)
def test_marks_that_do_not_pair_are_an_error_with_the_line(tmp_path: Path, lines: str, problem: str) -> None:
    with pytest.raises(SourceFileError, match=problem):
        table(tmp_path, "a,remark,y\n" + lines).outline()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "{end}", "{end}{end}"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_line_ends_marks_of_byte_order_and_blank_lines_are_fine(tmp_path: Path, end: str, last: str, encoding: str) -> None:
    text = end.join(["Öfen;b", "1,5;ä", "2,5;ö"]) + last.format(end=end)
    found = table(tmp_path, text.encode(encoding))
    assert rows(found) == [{"Öfen": "1,5", "b": "ä"}, {"Öfen": "2,5", "b": "ö"}]


# Heads, units, comments, sums (T22)

DATA = "".join(f"{number},5;{number % 7},25;0,{number + 10}\n" for number in range(30))


@pytest.mark.parametrize(
    ("head", "names", "units", "note"),
    [
        ("Temp;Druck;y\n", ["Temp", "Druck", "y"], {}, ""),
        ("Temp;Druck;y\n°C;bar;%\n", ["Temp", "Druck", "y"], {"Temp": "°C", "Druck": "bar", "y": "%"}, "line 2 below"),
        ("Temp;Druck;y\n[°C];[bar];[-]\n", ["Temp", "Druck", "y"], {"Temp": "°C", "Druck": "bar"}, "line 2 below"),
        ("°C;bar;%\nTemp;Druck;y\n", ["Temp", "Druck", "y"], {"Temp": "°C", "Druck": "bar", "y": "%"}, "line 1 above"),
        ("°C;bar;\nTemp;Druck;y\n", ["Temp", "Druck", "y"], {"Temp": "°C", "Druck": "bar"}, "line 1 above"),
        ("Protokoll 2024\n\nTemp;Druck;y\n", ["Temp", "Druck", "y"], {}, "line 1 stands above.*'Protokoll 2024'"),
        ("Protokoll;;\nGerät;X200;\nTemp;Druck;y\n", ["Temp", "Druck", "y"], {}, "line 2 stands above.*'Gerät X200'"),
        ("Ofen;;Labor\nTemp;Druck;y\n", ["Temp", "Druck", "y"], {}, "line 1 stands above the header and is left out"),
        ("Ofen;;Labor\nTemp;Druck;Temp\n", ["Ofen Temp", "Ofen Druck", "Labor Temp"], {}, "lines 1 and 2 are the header"),
        (
            "Titel\nTemp;Druck;y\n°C;bar;%\n",
            ["Temp", "Druck", "y"],
            {"Temp": "°C", "Druck": "bar", "y": "%"},
            "line 3 below",
        ),
        (
            "# made by X\n# on; Monday\nTemp;Druck;y\n",
            ["Temp", "Druck", "y"],
            {},
            "2 line.* begin with '#'.*first is line 1",
        ),
        ("# Temp;Druck;y\n", ["Temp", "Druck", "y"], {}, ""),
        ("#Nr;Druck;y\n", ["#Nr", "Druck", "y"], {}, ""),
        (";Druck;y\n", ["column 1", "Druck", "y"], {}, ""),
    ],
)
def test_what_stands_above_the_records_is_seen(
    tmp_path: Path, head: str, names: list[str], units: Mapping[str, str], note: str
) -> None:
    found = table(tmp_path, head + DATA)
    read = rows(found)
    assert list(read[0]) == names
    assert [list(row.values()) for row in read] == [line.split(";") for line in DATA.splitlines()]
    assert found.units == units
    assert bool(found.notes) == bool(note)
    if note:
        assert any(re.search(note, each) for each in found.notes), found.notes


def test_a_table_of_texts_keeps_its_first_rows(tmp_path: Path) -> None:
    text = ",Ort,Farbe\nx,Rom,rot\ny,Bonn,blau\n"
    assert [list(row.values()) for row in rows(table(tmp_path, text))] == [["x", "Rom", "rot"], ["y", "Bonn", "blau"]]
    text = "Wert,Urteil\nn.a.,gut\n3.5,gut\n4.5,gut\n"
    assert len(rows(table(tmp_path, text))) == 3


def test_sums_at_the_end_are_left_out_and_named(tmp_path: Path) -> None:
    found = table(tmp_path, "a;b;y\n" + DATA + "Summe;;240,5\nMittelwert:;1,5;2,5\n")
    assert len(rows(found)) == 30
    assert found.notes == (
        "line 32 sums the others up and is left out: 'Summe'",
        "line 33 sums the others up and is left out: 'Mittelwert:'",
    )


def test_a_name_at_the_end_is_not_a_sum(tmp_path: Path) -> None:
    lines = "".join(f"{name};{place},5\n" for place, name in enumerate(["Anna", "Tom", "Eva", "Max"]))
    assert [row["laborant"] for row in rows(table(tmp_path, "laborant;y\n" + lines))] == ["Anna", "Tom", "Eva", "Max"]


def test_comments_between_records_are_left_out_and_values_with_the_sign_are_not(tmp_path: Path) -> None:
    found = table(tmp_path, "nr;x;y\n#1;2,5;3\n# the furnace was cold\n#2;3,5;4\n")
    assert [row["nr"] for row in rows(found)] == ["#1", "#2"]
    assert found.notes == ("1 line(s) begin with '#' and are left out as comments; the first is line 3",)


def test_a_comment_that_a_spreadsheet_filled_up_with_empty_fields_is_not_a_record(tmp_path: Path) -> None:
    lines = [["day", "x", "y"], *([f"0{n}.02.2026", n + 0.5, n + 1.25] for n in range(1, 9)), ["# neuer Sand", None, None]]
    lines += [
        ["#17", None, None],
        ["09.02.2026", 9.5, 10.25],
        ["# kalt", None, None],
        ["Summe", 45.5, 54.25],
        ["# Ende", None, None],
    ]
    text = "\n".join(";".join("" if cell is None else str(cell).replace(".", ",") for cell in line) for line in lines)
    for found, word in ((table(tmp_path, text), "line"), (table_at(write_cells(tmp_path / "a.xlsx", lines)), "row")):
        days = [row["day"].replace(",", ".") for row in rows(found)]
        assert days == [*(f"0{n}.02.2026" for n in range(1, 9)), "#17", "09.02.2026"]  # a key whose values come later
        assert any(re.fullmatch(rf"\d {word}\(s\) begin with '#' .* the first is {word} 10", note) for note in found.notes)
        assert f"{word} 14 sums the others up and is left out: 'Summe'" in found.notes


def test_a_comment_in_a_workbook_leaves_its_column_of_days_a_time(tmp_path: Path) -> None:
    lines: list[list[Any]] = [
        ["day", "x", "y"],
        *([date(2026, 1, 1 + n % 28), n * 7 % 30 + 0.5, n * 11 % 30 + 0.25] for n in range(60)),
    ]
    lines.insert(30, ["# neuer Sand", None, None])
    described = describe(write_cells(tmp_path / "a.xlsx", lines), "y")
    assert described.records == 60
    assert {column.name: (column.type, column.missing) for column in described.columns} == {
        "day": ("datetime", 0), "x": ("number", 0), "y": ("number", 0),
    }  # fmt: skip


def test_a_sheet_with_title_units_and_sum_keeps_its_types(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"Protokoll": number + 0.5, "": f"B-{number}", " ": number % 9 + 0.25} for number in range(30)
    ]
    names: dict[str, Any] = dict(zip(records[0], ["Temp", "Charge", "y"], strict=True))
    units: dict[str, Any] = dict(zip(records[0], ["°C", None, "%"], strict=True))
    total: dict[str, Any] = dict(zip(records[0], ["Summe", None, 200.5], strict=True))
    found = table_at(write_excel(tmp_path / "a.xlsx", [names, units, *records, total]))
    frame = found.frame()
    assert frame.columns == ["Temp", "Charge", "y"]
    assert frame["Temp"].to_list() == [number + 0.5 for number in range(30)]
    assert frame["y"].dtype.is_float()
    assert found.units == {"Temp": "°C", "y": "%"}
    assert found.notes == (
        "row 1 stands above the header and is left out: 'Protokoll'", "row 3 below the header holds the units",
        "row 34 sums the others up and is left out: 'Summe'",
    )  # fmt: skip
    described = describe(tmp_path / "a.xlsx", "y")
    assert {column.name: column.unit for column in described.columns} == {"Temp": "°C", "Charge": "", "y": "%"}
    assert "# NOTE: row 34 sums the others up" in described.text()


# The same sheet, typed by people, as CSV and as a workbook


def sheet(folder: Path, cells: list[list[Any]], suffix: str) -> Table:
    """The same cells as CSV, as Excel writes it in German, and as a workbook."""
    if suffix == ".xlsx":
        return table_at(write_cells(folder / "a.xlsx", cells))
    text = "\n".join(
        ";".join("" if cell is None else str(cell).replace(".", ",", 1 if isinstance(cell, float) else 0) for cell in row)
        for row in cells
    )
    return table(folder, text + "\n")


def measured(found: Table) -> list[tuple[float, ...]]:
    """The numbers of all rows."""
    names, count = found.outline()
    columns = {name: Column(name=name, type="number", optional=True) for name in names}
    read = [tuple(row.values()) for _, chunk in found.chunks(columns, 7) for row in chunk if isinstance(row, dict)]
    assert len(read) == count
    return read


NUMBERS: list[list[Any]] = [[number + 0.5, number % 7 + 0.25, number % 3 + 0.125] for number in range(30)]
HEADER: list[Any] = ["Temp", "Druck", "y"]


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize(
    ("below", "notes"),
    [
        ([["Pruefer: Mueller"]], ["stands below the table and is left out: 'Pruefer: Mueller'"]),
        ([["Stand 12.03."]], ["'Stand 12.03.'"]),
        ([["Stand", "12.03.2024"]], ["'Stand 12.03.2024'"]),
        ([["Prüfer:", "Müller, A."], ["Seite", "1 von 1"]], ["'Prüfer: Müller, A.'", "'Seite 1 von 1'"]),
        ([[], [None, "alle Werte vom Ofen 3", None]], ["'alle Werte vom Ofen 3'"]),
        ([["Summe", None, 44.5], [], ["Prüfer: Müller"]], ["sums the others up and is left out: 'Summe'", "'Prüfer: Müller'"]),
        ([["Mittelwert", 4.5, 44.5], ["Stabw.", 4.5, 1.5]], ["'Mittelwert'", "'Stabw.'"]),
        ([["MITTELWERT:", 4.5, 44.5]], ["'MITTELWERT:'"]),
    ],
)  # fmt: skip
def test_what_stands_below_the_records_is_left_out_and_named_with_its_row(
    tmp_path: Path, suffix: str, below: list[list[Any]], notes: list[str]
) -> None:
    wide = [[*row, *[None] * (3 - len(row))] for row in below]
    for cells in ([HEADER, *NUMBERS, *wide], [HEADER, *NUMBERS, *below]):
        found = sheet(tmp_path, cells, suffix)
        assert measured(found) == [tuple(row) for row in NUMBERS]
        assert len(found.notes) == len(notes)
        row = "line" if suffix == ".csv" else "row"
        numbers = [32 + place for place, each in enumerate(below) if any(each)]
        for given, wanted, number in zip(found.notes, notes, numbers, strict=True):
            assert given.startswith(f"{row} {number} ")
            assert given.endswith(wanted)


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize(
    "last",
    [
        ["B-0061", None, None],  # its values come later
        ["B-0061", "n.i.O.", None],
        ["Charge 61: warm", None, None],  # as the others are called
        ["B-0061", None, 2.5],
        ["B-0061", "-", None],
        ["27.01.2025 08:00", None, None],
    ],
)
def test_a_record_whose_values_come_later_is_no_text_below_the_table(tmp_path: Path, suffix: str, last: list[Any]) -> None:
    cells = [["Charge", "Druck", "y"], *([f"Charge {row[0]}: kalt", *row[1:]] for row in NUMBERS), last]
    found = sheet(tmp_path, cells, suffix)
    assert len(rows(found)) == 31
    assert found.notes == ()


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize("head", [HEADER, [*HEADER, None], [*HEADER, None, None, None]])
@pytest.mark.parametrize("spare", [0, 1, 3])
def test_columns_without_names_and_values_at_the_end_of_the_lines_are_no_columns(
    tmp_path: Path, suffix: str, head: list[Any], spare: int
) -> None:
    found = sheet(tmp_path, [head, *([*row, *[None] * spare] for row in NUMBERS)], suffix)
    assert measured(found) == [tuple(row) for row in NUMBERS]
    assert found.outline()[0] == HEADER
    if suffix == ".csv":
        assert bool(found.notes) == bool(spare or len(head) > 3)
        assert all("no name and no value" in note for note in found.notes)


def test_a_value_far_below_in_a_column_without_a_name_is_kept(tmp_path: Path) -> None:
    lines = [f"{number},5;{number % 7},25;" for number in range(300)]
    found = table(tmp_path, "Temp;y;\n" + "\n".join(lines) + "\n")
    assert [list(row) for row in rows(found)] == [["Temp", "y"]] * 300
    lines[250] += "kalt"
    found = table(tmp_path, "Temp;y;\n" + "\n".join(lines) + "\n")
    assert rows(found)[250] == {"Temp": "250,5", "y": "5,25", "column 3": "kalt"}
    path = tmp_path / "b.csv"
    path.write_text("Temp;y\n" + "\n".join(lines))
    with pytest.raises(SourceFileError, match="line 252 has 3 fields"):
        describe(path, "y")


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_merged_heads_units_and_percent_signs(tmp_path: Path, suffix: str) -> None:
    cells = [
        ["Ofen", None, "Labor"], ["Temp", "Feuchte", "Temp"], ["°C", "%", "°C"],
        *([row[0], f"{row[1]} %".replace(".", ","), row[2]] for row in NUMBERS),
    ]  # fmt: skip
    found = sheet(tmp_path, cells, suffix)
    assert measured(found) == [tuple(row) for row in NUMBERS]
    assert found.outline()[0] == ["Ofen Temp", "Ofen Feuchte", "Labor Temp"]
    assert found.units == {"Ofen Temp": "°C", "Ofen Feuchte": "%", "Labor Temp": "°C"}
    row = "line" if suffix == ".csv" else "row"
    assert found.notes == (f"{row}s 1 and 2 are the header together", f"{row} 3 below the header holds the units")


def test_text_cells_have_their_own_decimal_sign_beside_cells_that_are_numbers(tmp_path: Path) -> None:
    lines = [["Temp", "Blei", "y"], *([900.125 + n, 0.02 + n / 1000, n % 7 + 0.5] for n in range(40))]
    lines[3][:2] = "901,5", "<0,01"
    lines[5][:2] = "0,250", "0,025"
    lines.insert(8, [None, None, None])
    found = describe(write_cells(tmp_path / "a.xlsx", lines), "y")
    values = [row for _, chunk in found.table.chunks(found.dataset().by_name, 100) for row in chunk if isinstance(row, dict)]
    assert [row["Temp"] for row in values] == [line[0] for line in lines[1:3]] + [901.5, 903.125, 0.25] + [
        line[0] for line in lines[6:] if line[0]
    ]
    assert [row["Blei"] for row in values[2:5]] == [0.005, lines[4][1], 0.025]
    assert (found.records, found.checked and found.checked.refused) == (40, 0)
    # The texts of the other columns decide where its own do not; the numbers beside a text never do.
    lines[5][0] = lines[3][0] = "1,250"
    found = describe(write_cells(tmp_path / "b.xlsx", lines), "y")
    assert (found.columns[0].low, found.columns[0].high) == (1.25, 939.125)
    lines[5][1] = lines[3][1] = 0.03
    found = describe(write_cells(tmp_path / "c.xlsx", lines), "y")
    assert (found.columns[0].low, found.columns[0].high) == (900.125, 939.125)
    assert found.checked is not None
    assert found.checked.refused == 2
    assert "'1,250' can be 1250 or 1.250" in found.checked.why


def test_a_column_without_a_name_in_the_middle_of_a_sheet_moves_no_values(tmp_path: Path) -> None:
    cells = [["Protokoll 7", None, None, None], ["Temp", None, "Druck", "y"], *([row[0], None, *row[1:]] for row in NUMBERS)]
    found = table_at(write_cells(tmp_path / "a.xlsx", cells))
    assert found.frame().columns == HEADER
    assert measured(found) == [tuple(row) for row in NUMBERS]
    far = [HEADER, *NUMBERS, *NUMBERS, [*NUMBERS[0], "kalt"]]
    assert rows(table_at(write_cells(tmp_path / "c.xlsx", far)))[60]["column 4"] == "kalt"
    assert table_at(write_cells(tmp_path / "d.xlsx", [[None, None], [None]])).outline() == ([], 0)
    with pytest.raises(SourceFileError, match="has the column 'Temp' more than once"):
        table_at(write_cells(tmp_path / "b.xlsx", [["Temp", "Druck", "Temp"], *NUMBERS])).outline()


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('"Rohr 3/4""",b', 'Rohr 3/4"'),
        ('Rohr 3/4",b', 'Rohr 3/4"'),
        ('"a ""x"" b",b', 'a "x" b'),
        ('a""b,b', 'a""b'),
        ('"""",b', '"'),
    ],
)
def test_marks_in_the_header_are_those_of_the_name(header: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n" + "".join(f"{n}.5,x\n" for n in range(9)))
    assert table_at(path).outline() == ([name, "b"], 9)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("size", [1, 7, 20, 64, 200])
def test_a_large_file_is_read_in_parts_and_no_row_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, newline: str
) -> None:
    path = tmp_path / "large.csv"
    cells = [
        ["C-1", "plain"],
        ["C-2", 'with "marks"'],
        ["C-3", "two\nlines"],
        ["C-4", "größer, °C"],
        ["C-5", '\n\n"\n'],
        ["C-6", ""],
    ]
    header = [["Charge", "Notiz,\nlang"]]
    rows = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) + newline for row in [*header, *cells * 9]]
    path.write_bytes(b"\xef\xbb\xbf" + "".join(rows).encode())
    whole = CsvTable(path)
    monkeypatch.setattr("complex_system.sources.sheets.PART_BYTES", size)
    parts = CsvTable(path)
    assert parts.frame().equals(whole.frame())
    assert parts.outline() == whole.outline() == (["Charge", "Notiz,\nlang"], 54)
    assert [part[ROW].to_list() for part in parts.frames(54)] == [list(range(1, 55))]
    assert len(list(parts._folder.glob("part-*"))) == len(parts._parts) >= 2
