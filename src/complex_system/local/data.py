"""``fiot run --data``: the whole system on a file of one's own, or on a data set that ships with the package."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec

from complex_system.describe.checking import FileCheck, check_file
from complex_system.describe.describe import describe
from complex_system.domain.columns import ID
from complex_system.domain.dataset import SHIPPED, Dataset
from complex_system.domain.json_schema import put_beside
from complex_system.domain.records import shown
from complex_system.domain.steps import Drop
from complex_system.errors import SourceFileError
from complex_system.settings import Settings
from complex_system.training.data import MIN_SAMPLES, Part

FEWEST_LABELLED = 30
"""Labelled records below which no training round is started, however small the file."""

_LONGEST_NAME = 40


@dataclass(frozen=True)
class ChosenData:
    """What a run is told about its data.

    Attributes:
        options: Variables for the services.
        notes: What the person who started the run should know.
        too_few: Why nothing can be trained; empty where it can.
        keyless: Whether the records bring no keys, so that a changed file has other records.
    """

    options: Mapping[str, str]
    notes: tuple[str, ...] = ()
    too_few: str = ""
    keyless: bool = False


def choose_data(data: str, target: str, folder: Path, given: Mapping[str, str]) -> ChosenData:
    """Prepares a run on other data.

    A ``dataset.yaml`` beside the file declares it; without one a declaration is made of the file and kept in ``folder``.
    Every data set has a database of its own, so that several live side by side in one server.

    Args:
        data: ``lab``, ``films``, or a file that ``sources.tables`` reads.
        target: Which target, where there are several; in a file without a declaration, the column to predict.
        folder: Where runs keep their declarations.
        given: Variables that the deployment sets.

    Raises:
        SourceFileError: There is no such file, or it cannot be read.
        DescribeError: No declaration can be made of the file.
        DeclarationError: The declaration is not valid, or a target must be chosen.
    """
    if data == "lab":
        return ChosenData({})
    notes: list[str] = []
    if data in SHIPPED:
        config, file = folder / data, folder / data / "records.jsonl"
        config.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(resources.files("complex_system.domain") / f"{data}.yaml"), config / "dataset.yaml")
        dataset = Dataset.load(config, target=target)
        _write_films(file, dataset)
    else:
        file = Path(data).resolve()
        if not file.is_file():
            raise SourceFileError(f"There is no file {data}; --data takes a file or one of {', '.join(SHIPPED)}.")
        config = file.parent
        if not (config / "dataset.yaml").is_file():
            config = folder / f"{file.stem}-{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
            notes += _declare(file, target, config)
        dataset = Dataset.load(config, target=target)
    checked = check_file(file, dataset)
    labelled = checked.labelled
    notes += _judged(checked, file, config / "dataset.yaml")
    notes += _not_as_meant(checked, dataset)
    name = f"_{_short(dataset.name)}" + (f"_{hashlib.sha256(target.encode()).hexdigest()[:6]}" if target else "")
    settings = Settings.of(given)
    options = {
        "FASTIOT_CONFIG_DIR": str(config),
        "COMPLEX_SYSTEM_SOURCE_FILE": str(file),
        "COMPLEX_SYSTEM_TARGET": target if len(dataset.targets) > 1 else "",
        "FASTIOT_MONGO_DB_NAME": settings.mongo_name + name,
        "COMPLEX_SYSTEM_MARIA_NAME": settings.maria_name + name,
        # The keys of a file need not follow time, so the newest by key may be a part like no other.
        "COMPLEX_SYSTEM_HOLDOUT_NEWEST": given.get("COMPLEX_SYSTEM_HOLDOUT_NEWEST", "0"),
        "COMPLEX_SYSTEM_MIN_LABELLED": str(max(FEWEST_LABELLED, min(settings.min_labelled, labelled))),
    }
    notes.append(
        f"data set '{dataset.name}' of {config / 'dataset.yaml'}, {labelled} labelled records; it predicts '{dataset.target}'"
    )
    too_few = _too_few(checked)
    return ChosenData(options, (*notes, too_few) if too_few else tuple(notes), too_few, checked.without_key > 0)


def _short(name: str) -> str:
    """A data set's name as a part of a database's, of which MariaDB takes 64 characters and MongoDB 63."""
    return (
        name
        if len(name) <= _LONGEST_NAME
        else f"{name[: _LONGEST_NAME - 7]}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    )


def _too_few(checked: FileCheck) -> str:
    if checked.labelled < FEWEST_LABELLED:
        return f"{checked.labelled} labelled records are fewer than the {FEWEST_LABELLED} that a training needs: none will be started"
    small = [f"{part.name.lower()} {count}" for part, count in zip(Part, checked.parts, strict=True) if count < MIN_SAMPLES]
    if small:
        return (
            f"of the {checked.labelled} labelled records too few fall into a part of the split ({', '.join(small)}; at least "
            f"{MIN_SAMPLES} are needed), so no model becomes champion; with 100 records this hardly ever happens"
        )
    return ""


def _judged(checked: FileCheck, file: Path, declaration: Path) -> list[str]:
    """What a person should know of the records; an error where none can be used."""
    if not checked.records:
        raise SourceFileError(f"The file {file} has a header and no records.")
    if checked.refused == checked.records:
        raise SourceFileError(
            f"No record of {file} is as {declaration} declares it: {checked.why}. Change the declaration or the file."
        )
    notes = []
    if checked.refused:
        notes.append(
            f"CHECK: {checked.refused} of {checked.records} records cannot be used, the others can: {checked.why}. "
            f"Where the file is right, allow it in {declaration}; else correct the file"
        )
    if checked.same_key:
        notes.append(
            f"CHECK: {checked.same_key} records have a key that an earlier one has, such as {shown(checked.example)}; "
            "only the first of each is kept"
        )
    return notes


def _not_as_meant(checked: FileCheck, dataset: Dataset) -> list[str]:
    """What works and is perhaps not what the author of the declaration meant."""
    notes = []
    if checked.absent:
        notes.append(
            f"CHECK: the file has no column {_quoted(checked.absent)}, which the declaration has: the value is missing in every record"
        )
    if dataset.id and checked.without_key:
        every = checked.without_key == checked.records
        who = "no record has" if every else f"{checked.without_key} of {checked.records} records do not have"
        notes.append(f"CHECK: {who} the key '{dataset.id}', so keys are made of the file's content and the row's number")
    taken = {name for step in dataset.pipeline for name in step.inputs} | set(dataset.targets)
    taken |= {name for step in dataset.pipeline if isinstance(step, Drop) for name in step.columns}
    if unused := [column.name for column in dataset.columns if column.type != "text" and column.name not in taken]:
        notes.append(f"CHECK: no step takes the column {_quoted(unused)}; the step drop would say that this is meant")
    return notes


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _declare(file: Path, target: str, config: Path) -> list[str]:
    """Makes the declaration of a file that has none; one that a person has changed since stays."""
    declaration, proposed = config / "dataset.yaml", config / "proposed.yaml"
    if declaration.is_file() and proposed.is_file() and declaration.read_bytes() != proposed.read_bytes():
        return [
            f"{file.name} has no dataset.yaml beside it; the one that was made of it and changed since is taken: {declaration} "
            "(remove it, and another is made)"
        ]
    description = describe(file, target)
    config.mkdir(parents=True, exist_ok=True)
    for path in (proposed, declaration):
        path.write_text(description.text(), encoding="utf-8")
    put_beside(declaration)
    notes = [f"{file.name} has no dataset.yaml beside it, so one was made of it: {declaration}"]
    if not description.target_was_named:
        notes.append(f"CHECK: no --target was named, so the last column of numbers is predicted: '{description.target}'")
    if description.proposal.dropped:
        notes.append(f"columns that are not used: {', '.join(description.proposal.dropped)}; the declaration says why")
    return notes


def _write_films(file: Path, dataset: Dataset) -> None:
    from complex_system.sources.films import films

    lines = [{ID: film[ID], **{name: film[name] for name in dataset.raw_names}} for film in films(dataset)]
    file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
