"""What ``fiot run --data`` tells the services."""

from __future__ import annotations

from pathlib import Path

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.errors import DeclarationError, SourceFileError
from complex_system.local.data import choose_data
from complex_system.local.plan import Deployment, make_plan
from complex_system.sources.replay import ReplayFile
from complex_system.training.data import Part, parts_of


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
    assert len({each.options["FASTIOT_MONGO_DB_NAME"] for each in chosen}) == 2
    assert all(each.options["FASTIOT_MONGO_DB_NAME"].startswith("Plant_films") for each in chosen)
    assert "51 labelled records; it predicts 'Kaltverfo'" in chosen[1].notes[-1]


def test_a_file_without_a_declaration_is_declared_on_the_fly(tmp_path: Path) -> None:
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


def test_a_declaration_beside_the_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text(
        "name: mine\ntarget: y\ncolumns:\n  - {name: x, type: number, range: [0, 9]}\n  - {name: y, type: number}\n"
        "pipeline:\n  - {step: scale, column: x}\n"
    )
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    chosen = choose_data(str(tmp_path / "a.csv"), "", tmp_path / "runs", {})
    assert chosen.options["FASTIOT_CONFIG_DIR"] == str(tmp_path)
    assert chosen.options["COMPLEX_SYSTEM_MIN_LABELLED"] == "30"
    assert "2 labelled records are fewer than the 30" in chosen.notes[-1]
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="There is no file flims; --data takes a file or one of lab, films"):
        choose_data("flims", "", tmp_path, {})


def test_a_run_is_planned_with_the_chosen_data(tmp_path: Path) -> None:
    chosen = choose_data("films", "Ausformung", tmp_path, {})
    plan = make_plan(Deployment("mongo", tmp_path / "elsewhere", {}, ()), tmp_path / "run", chosen.options)
    assert (plan.dataset.name, plan.dataset.target, plan.settings.min_labelled) == ("films", "Ausformung", 51)
    assert plan.settings.source_file == str(tmp_path / "films" / "records.jsonl")
    assert plan.settings.mongo_name.startswith("KIOptiPackDb_films")


def test_parts_of_the_split_that_are_too_small_are_named_before_the_run(tmp_path: Path) -> None:
    file = tmp_path / "small.csv"
    keys = [key for key in (f"k{i}" for i in range(1000)) if parts_of([key])[0] != Part.HOLDOUT][:80]
    file.write_text("_id,x,y\n" + "".join(f"{key},{i},{2 * i}\n" for i, key in enumerate(keys)))
    (tmp_path / "dataset.yaml").write_text(
        "name: small\ntarget: y\ncolumns:\n  - {name: x, type: number, range: [0, 100]}\n  - {name: y, type: number}\n"
        "pipeline:\n  - {step: keep, column: x}\n"
    )
    notes = choose_data(str(file), "", tmp_path / "sets", {}).notes
    assert "too few labelled records for a training: the holdout part has 0, and 5 are needed" in notes[-1]
