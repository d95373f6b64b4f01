"""What ``fiot run --data`` tells the services."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import has_known_function
from complex_system.errors import DeclarationError, SourceFileError
from complex_system.local.own_data import ChosenData, choose_data
from complex_system.local.plan import Deployment, make_plan
from complex_system.pipeline.pipeline import Pipeline
from complex_system.sources.replay import ReplayFile
from complex_system.training.split import Part
from samples import parts_of_records


def test_the_lab_data_need_nothing(tmp_path: Path) -> None:
    assert choose_data("lab", "", tmp_path, {}).options == {}


def test_the_films_need_a_target_and_get_a_database_of_their_own_for_each(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"2 targets \(Ausformung, Kaltverfo\).*--target Ausformung"):
        choose_data("films", "", tmp_path, {})
    chosen = [
        choose_data("films", target, tmp_path, {"FASTIOT_MONGO_DB_NAME": "Plant"}) for target in ("Ausformung", "Kaltverfo")
    ]
    options = chosen[1].options
    dataset = Dataset.load(options["FASTIOT_CONFIG_DIR"], target=options["COMPLEX_SYSTEM_TARGET"])
    assert dataset.target == "Kaltverfo"
    assert ReplayFile(Path(options["COMPLEX_SYSTEM_SOURCE_FILE"]), dataset).rows == 51
    assert options["COMPLEX_SYSTEM_MIN_LABELLED"] == "51"
    assert options["COMPLEX_SYSTEM_HOLDOUT_NEWEST"] == "0"
    assert len({each.options["FASTIOT_MONGO_DB_NAME"] for each in chosen}) == 2
    assert all(each.options["FASTIOT_MONGO_DB_NAME"].startswith("Plant_films") for each in chosen)
    assert "51 labelled records, target 'Kaltverfo'" in chosen[1].notes[-1]


def test_a_file_without_a_declaration_gets_a_generated_one(tmp_path: Path) -> None:
    file = tmp_path / "Öfen 2025.csv"
    file.write_text(
        "Heiz;Art;Güte\n" + "".join(f"{i % 17},5;{'ab'[i % 2]};{i * i % 23},25\n" for i in range(300)), encoding="latin-1"
    )
    chosen = choose_data(str(file), "", tmp_path / "runs", {})
    dataset = Dataset.load(chosen.options["FASTIOT_CONFIG_DIR"])
    assert (dataset.name, dataset.target, dataset.feature_names) == ("oefen_2025", "Güte", ("Art_a", "Art_b", "Heiz"))
    assert chosen.options["COMPLEX_SYSTEM_MIN_LABELLED"] == "200"
    assert chosen.options["COMPLEX_SYSTEM_MARIA_NAME"].endswith("_oefen_2025")
    assert any("CHECK: no --target was named" in note for note in chosen.notes)
    named = choose_data(str(file), "Heiz", tmp_path / "others", {})
    assert Dataset.load(named.options["FASTIOT_CONFIG_DIR"]).target == "Heiz"


def test_a_file_that_is_called_lab_is_an_ordinary_data_set(tmp_path: Path) -> None:
    file = tmp_path / "lab.csv"
    rows = "".join(
        f"{1 + number // 24:02}.03.2025 {number % 24:02}:00,{number % 7 / 7:.3f},{number * number % 23}.5\n"
        for number in range(60)
    )
    file.write_text("Zeit,x,y\n" + rows)
    chosen = choose_data(str(file), "y", tmp_path / "runs", {})
    dataset = Dataset.load(chosen.options["FASTIOT_CONFIG_DIR"])
    assert (dataset.name, dataset.law, has_known_function(dataset)) == ("lab", None, False)
    assert "_lab_" in chosen.options["FASTIOT_MONGO_DB_NAME"], "beside the database of the demonstration"
    assert dataset.time is not None
    assert dataset.time.column == "Zeit"


def test_what_of_a_file_is_no_record_is_said(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    rows = "".join(f"{number}.25,{number * number % 17}.5\n" for number in range(40))
    file.write_text("t,y\n# calibrated\n" + rows + "Summe,318.5\n")
    notes = choose_data(str(file), "y", tmp_path / "runs", {}).notes
    assert "NOTE: line 43 sums the others up and is left out: 'Summe'" in notes
    assert any(note.startswith("NOTE: ") and "#" in note for note in notes)


def test_a_generated_declaration_that_was_edited_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("t,y\n" + "".join(f"{number}.25,{number * number % 17}.5\n" for number in range(40)))

    def version() -> tuple[str, str]:
        chosen = choose_data(str(file), "", tmp_path / "runs", {})
        return chosen.notes[0], Dataset.load(chosen.options["FASTIOT_CONFIG_DIR"]).version

    made = version()
    assert "so one was generated from it" in made[0]
    assert version() == made
    [declaration] = (tmp_path / "runs").glob("*/dataset.yaml")
    declaration.write_text(re.sub(r"range: \[.*?\]", "range: [0, 99]", declaration.read_text()))
    said, changed = version()
    assert "edited since, is used" in said
    assert changed != made[1]
    declaration.unlink()
    assert version() == made


def test_a_declaration_in_the_folder_of_the_file_is_used(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text(
        "name: mine\ntarget: y\ncolumns:\n  - {name: x, type: number, range: [0, 9]}\n  - {name: y, type: number}\n"
        "pipeline:\n  - {step: scale, column: x}\n"
    )
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    chosen = choose_data(str(tmp_path / "a.csv"), "", tmp_path / "runs", {})
    assert chosen.options["FASTIOT_CONFIG_DIR"] == str(tmp_path)
    assert chosen.options["COMPLEX_SYSTEM_MIN_LABELLED"] == "30"
    assert "2 labelled records are too few: a training needs 30" in chosen.notes[-1]
    assert not (tmp_path / "runs").exists()


DECLARED = (
    "name: mine\nid: batch\ntarget: y\ncolumns:\n  - {name: t, type: number, range: [0, 50]}\n"
    "  - {name: c, type: category, categories: [A, B]}\n  - {name: y, type: number, optional: true}\n"
    "pipeline:\n  - {step: scale, column: t}\n  - {step: one_hot, column: c}\n"
)
ROWS = [[f"B{i}", str(i % 50), "AB"[i % 2], str(i * i % 17)] for i in range(40)]


def declared(tmp_path: Path, rows: list[list[str]], header: str = "batch;t;c;y") -> Path:
    (tmp_path / "dataset.yaml").write_text(DECLARED)
    (tmp_path / "a.csv").write_text("\n".join([header, *(";".join(row) for row in rows)]) + "\n")
    return tmp_path / "a.csv"


def test_invalid_records_are_reported_before_anything_starts(tmp_path: Path) -> None:
    rows = [list(row) for row in ROWS]
    rows[1][2], rows[5][2], rows[7][1], rows[9][3] = "C", "D", "51", "n.i.O."
    chosen = choose_data(str(declared(tmp_path, rows)), "", tmp_path / "runs", {})
    assert chosen.notes[0] == (
        "CHECK: 4 of 40 records are not valid and will be refused: row 2, field 'c': 'C' is not one of A, B (2 rows); "
        "row 8, field 't': 51.0 is outside of [0, 50]; row 10, field 'y': must be a number or nothing, not the text 'n.i.O.'. "
        f"If the file is right, change {tmp_path / 'dataset.yaml'}; otherwise correct the file"
    )
    assert "36 labelled records" in chosen.notes[-1]


def test_records_with_the_same_key_are_reported(tmp_path: Path) -> None:
    rows = [["B1" if number == 30 else row[0], *row[1:]] for number, row in enumerate(ROWS)]
    chosen = choose_data(str(declared(tmp_path, rows)), "", tmp_path / "runs", {})
    assert (
        chosen.notes[0]
        == "CHECK: 1 records repeat the key of an earlier one, such as 'B1'; only the first record of each key is kept"
    )


def test_a_file_without_valid_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SourceFileError,
        match=r"No record of .* is valid by .*: row 1, field 't': 70.0 is outside of \[0, 50\] \(40 rows\)\. Change",
    ):
        choose_data(str(declared(tmp_path, [[row[0], "70", *row[2:]] for row in ROWS])), "", tmp_path / "runs", {})
    with pytest.raises(SourceFileError, match=r"a\.csv has a header and no records"):
        choose_data(str(declared(tmp_path, [])), "", tmp_path / "runs", {})
    with pytest.raises(SourceFileError, match="has the column 't' more than once"):
        choose_data(str(declared(tmp_path, ROWS, "batch;t;t;y")), "", tmp_path / "runs", {})


def test_too_few_records_for_a_training_are_reported(tmp_path: Path) -> None:
    assert choose_data(str(declared(tmp_path, ROWS)), "", tmp_path / "runs", {}).too_few == ""
    chosen = choose_data(str(declared(tmp_path, ROWS[:5])), "", tmp_path / "runs", {})
    assert chosen.too_few == "5 labelled records are too few: a training needs 30, so none will start"
    rows = [[f"B{i}", str(i % 50), "AB"[i % 2], str(i * i % 1717)] for i in range(200)]
    records = [{"t": float(t), "c": c, "y": float(y)} for _, t, c, y in rows]
    parts = parts_of_records(Pipeline(Dataset.parse(DECLARED)), records)
    rows = [row for row, part in zip(rows, parts, strict=True) if part != Part.HOLDOUT][:60]
    chosen = choose_data(str(declared(tmp_path, rows)), "", tmp_path / "runs", {})
    assert (
        "a part of the split has too few of the 60 labelled records (holdout 0; at least 5 are needed)" in chosen.notes[-1]
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="There is no file flims; --data takes a file or one of lab, films"):
        choose_data("flims", "", tmp_path, {})


def test_a_run_is_planned_with_the_chosen_data(tmp_path: Path) -> None:
    chosen = choose_data("films", "Ausformung", tmp_path, {})
    plan = make_plan(Deployment("mongo", tmp_path / "elsewhere", {}, ()), tmp_path / "run", chosen.options)
    assert (plan.dataset.name, plan.dataset.target, plan.settings.min_labelled) == ("films", "Ausformung", 51)
    assert plan.settings.source_file == str(tmp_path / "films" / "records.jsonl")
    assert plan.settings.mongo_name.startswith("KIOptiPackDb_films")


def test_what_works_but_is_perhaps_not_intended_is_reported(tmp_path: Path) -> None:
    declared_more = DECLARED.replace(
        "  - {name: y,",
        "  - {name: p, type: number, range: [0, 1], optional: true, fill: 0}\n"
        "  - {name: q, type: number, optional: true}\n  - {name: y,",
    )
    file = declared(tmp_path, [[*row[1:], "1"] for row in ROWS], "t;c;y;q")
    (tmp_path / "dataset.yaml").write_text(declared_more)
    assert choose_data(str(file), "", tmp_path / "runs", {}).notes[:3] == (
        "CHECK: the file has no column 'p', which is declared: the value is missing in every record",
        "CHECK: no record has the key 'batch', so keys are made from the file's content and the row number",
        "CHECK: no step uses the column 'p', 'q'; if that is intended, name it in a drop step",
    )
    file = declared(tmp_path, [["" if place == 3 else row[0], *row[1:]] for place, row in enumerate(ROWS)])
    assert "CHECK: 1 of 40 records lack the key 'batch'" in choose_data(str(file), "", tmp_path / "runs", {}).notes[0]


@pytest.mark.parametrize(
    ("declares", "holds", "hint"),
    [
        ("Größe [mm]", "Gro\u0308ße [mm]", "looks like the declared 'Größe [mm]' but has other characters: copy the name"),
        ("Druck", "Druck ", "looks like the declared 'Druck' but has other characters"),
        ("Druck (bar)", "Druck [bar]", "Is 'Druck [bar]' the declared 'Druck (bar)'?"),
        (
            "Druck",
            "Laborant",
            "Declare the unknown columns (unused ones: type text, and in the step drop), or take them out of the file.",
        ),
    ],
)
def test_a_column_of_another_name_gets_an_error_that_says_what_to_do(
    tmp_path: Path, declares: str, holds: str, hint: str
) -> None:
    file = declared(tmp_path, [[*row, "1"] for row in ROWS], f"batch;t;c;y;{holds}")
    text = DECLARED.replace("  - {name: y,", f'  - {{name: "{declares}", type: number, optional: true}}\n  - {{name: y,')
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(SourceFileError) as error:
        choose_data(str(file), "", tmp_path / "runs", {})
    assert hint in error.value.message


def test_a_file_that_lacks_a_column_gets_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        SourceFileError,
        match=r"lacks the column\(s\) 't'.*Rename the missing columns in the declaration, or give them 'opt",
    ):
        choose_data(str(declared(tmp_path, [[row[0], *row[2:]] for row in ROWS], "batch;c;y")), "", tmp_path / "runs", {})


def test_a_changed_file_without_keys_is_reported_because_its_records_would_be_there_twice(tmp_path: Path) -> None:
    directory, file = tmp_path / "mongo", tmp_path / "a.csv"
    directory.mkdir()
    rows = [f"{number}.25,{number * number % 17}.5\n" for number in range(60)]

    def chosen(count: int, header: str = "t,y\n") -> ChosenData:
        file.write_text(header + "".join(rows[:count]))
        return choose_data(str(file), "", tmp_path / "runs", {})

    first = chosen(40)
    assert first.keyless
    assert first.warn_of_changed_file(directory) == ""
    first.remember_file(directory)
    assert chosen(40).warn_of_changed_file(directory) == ""
    grown = chosen(60)
    assert "of an earlier a.csv" in grown.warn_of_changed_file(directory)
    elsewhere = replace(grown, options={**grown.options, "FASTIOT_MONGO_DB_NAME": "b"})
    assert elsewhere.warn_of_changed_file(directory) == ""
    assert not choose_data(str(declared(tmp_path, ROWS)), "", tmp_path / "runs", {}).keyless


def test_a_long_name_makes_a_database_name_that_both_servers_take(tmp_path: Path) -> None:
    file = declared(tmp_path, ROWS)
    names = set()
    for end in ("a", "b"):
        (tmp_path / "dataset.yaml").write_text(
            DECLARED.replace("name: mine", f"name: {'long_' * 20}{end}").replace("target: y", "target: [y, t]")
            .replace("  - {step: scale, column: t}\n", "")
        )  # fmt: skip
        options = choose_data(str(file), "y", tmp_path / "runs", {}).options
        names |= {options["FASTIOT_MONGO_DB_NAME"], options["COMPLEX_SYSTEM_MARIA_NAME"]}
    assert len(names) == 2
    assert max(map(len, names)) <= 63
