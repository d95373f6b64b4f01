"""``fiot run --data``: the whole system on a file of your own, or on a data set that ships with the package."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import cast

import msgspec

from complex_system.describe.checking import FileCheck, check_file
from complex_system.describe.description import describe
from complex_system.domain.columns import ID
from complex_system.domain.dataset import SHIPPED, Dataset
from complex_system.domain.json_schema import put_beside
from complex_system.domain.records import Record, raw_check, shown
from complex_system.domain.steps import Drop
from complex_system.errors import SourceFileError
from complex_system.settings import Settings
from complex_system.training.data import MIN_SAMPLES, Part

FEWEST_LABELLED = 30
"""Labelled records below which no training round is started, however small the file."""

_LONGEST_NAME = 40
_MAX_NOTES = 5
_FILES = "files.json"
"""Digests of the files without keys whose records a database holds, by the database's name."""
_SOURCE, _DATABASE = "COMPLEX_SYSTEM_SOURCE_FILE", "FASTIOT_MONGO_DB_NAME"


@dataclass(frozen=True)
class ChosenData:
    """The data of a run.

    Attributes:
        options: Variables for the services.
        notes: Messages for the person who started the run.
        too_few: Why no model can be trained; empty where one can.
        keyless: Whether records have no keys, so that a changed file has other records.
    """

    options: Mapping[str, str]
    notes: tuple[str, ...] = ()
    too_few: str = ""
    keyless: bool = False

    def warn_of_changed_file(self, directory: Path) -> str:
        """Return a warning where the database has records of the file as it was before; empty where it has none.

        Keys of a file without a key column are made of its content, so its records would be there twice: in the parts that models
        train on and in those that they are compared on.

        Args:
            directory: The deployment's folder.
        """
        known = _known_files(directory).get(self.options[_DATABASE], [])
        if not known or self._digest() in known:
            return ""
        return (
            f"CHECK: the database holds records of another file, or of an earlier {Path(self.options[_SOURCE]).name}. "
            "Without a key column the same rows are new records, so they are there twice, and the errors look smaller than they are: "
            "name a key column as 'id', or remove the earlier records with --fresh"
        )

    def remember_file(self, directory: Path) -> None:
        """Write down that a file without keys goes into its database."""
        files = _known_files(directory)
        known = files.setdefault(self.options[_DATABASE], [])
        if (digest := self._digest()) not in known:
            known.append(digest)
            (directory / _FILES).write_bytes(msgspec.json.encode(files))

    def _digest(self) -> str:
        with Path(self.options[_SOURCE]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _known_files(directory: Path) -> dict[str, list[str]]:
    try:
        return msgspec.json.decode((directory / _FILES).read_bytes(), type=dict[str, list[str]])
    except (OSError, msgspec.DecodeError):
        return {}


def choose_data(data: str, target: str, folder: Path, given: Mapping[str, str]) -> ChosenData:
    """Prepare a run on other data.

    A ``dataset.yaml`` beside the file declares it; without one, a declaration is generated from the file and kept in ``folder``.
    Every data set has a database of its own, so that one server can keep several.

    Args:
        data: ``lab``, ``films``, or a file that ``sources.tables`` reads.
        target: Which target, where there are several; in a file without a declaration, the column to predict.
        folder: Folder of the generated declarations.
        given: Variables that the deployment sets.

    Raises:
        SourceFileError: There is no such file, or it cannot be read.
        DescribeError: No declaration can be generated from the file.
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
    notes += _record_notes(checked, file, config / "dataset.yaml")
    notes += _declaration_notes(checked, dataset)
    name = f"_{_short(dataset.name)}" + (f"_{hashlib.sha256(target.encode()).hexdigest()[:6]}" if target else "")
    settings = Settings.of(given)
    options = {
        "FASTIOT_CONFIG_DIR": str(config),
        "COMPLEX_SYSTEM_SOURCE_FILE": str(file),
        "COMPLEX_SYSTEM_TARGET": target if len(dataset.targets) > 1 else "",
        "FASTIOT_MONGO_DB_NAME": settings.mongo_name + name,
        "COMPLEX_SYSTEM_MARIA_NAME": settings.maria_name + name,
        # The keys of a file need not follow time, so its last keys need not be its newest data.
        "COMPLEX_SYSTEM_HOLDOUT_NEWEST": given.get("COMPLEX_SYSTEM_HOLDOUT_NEWEST", "0"),
        "COMPLEX_SYSTEM_MIN_LABELLED": str(max(FEWEST_LABELLED, min(settings.min_labelled, labelled))),
    }
    notes.append(
        f"data set '{dataset.name}' from {config / 'dataset.yaml'}: {labelled} labelled records, target '{dataset.target}'"
    )
    too_few = _too_few(checked)
    return ChosenData(options, (*notes, too_few) if too_few else tuple(notes), too_few, checked.without_key > 0)


def _short(name: str) -> str:
    """Return a data set's name as part of a database's name, which has at most 64 characters in MariaDB and 63 in MongoDB."""
    return (
        name
        if len(name) <= _LONGEST_NAME
        else f"{name[: _LONGEST_NAME - 7]}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    )


def _too_few(checked: FileCheck) -> str:
    if checked.labelled < FEWEST_LABELLED:
        return f"{checked.labelled} labelled records are too few: a training needs {FEWEST_LABELLED}, so none will start"
    small = [f"{part.name.lower()} {count}" for part, count in zip(Part, checked.parts, strict=True) if count < MIN_SAMPLES]
    if small:
        return (
            f"a part of the split has too few of the {checked.labelled} labelled records ({', '.join(small)}; at least "
            f"{MIN_SAMPLES} are needed), so no model can become champion; 100 labelled records are almost always enough"
        )
    return ""


def _record_notes(checked: FileCheck, file: Path, declaration: Path) -> list[str]:
    """Return messages about the records.

    Raises:
        SourceFileError: None of them can be used.
    """
    if not checked.records:
        raise SourceFileError(f"The file {file} has a header and no records.")
    if checked.refused == checked.records:
        raise SourceFileError(
            f"No record of {file} is valid by {declaration}: {checked.why}. Change the declaration or the file."
        )
    notes = [f"NOTE: {note}" for note in checked.notes[:_MAX_NOTES]]
    if more := len(checked.notes) - len(notes):
        notes.append(f"NOTE: and {more} more; fiot extras describe-data names all")
    notes += (f"NOTE: {limit}" for limit in checked.limits)
    if checked.refused:
        notes.append(
            f"CHECK: {checked.refused} of {checked.records} records are not valid and will be refused: {checked.why}. "
            f"If the file is right, change {declaration}; otherwise correct the file"
        )
    if checked.same_key:
        notes.append(
            f"CHECK: {checked.same_key} records repeat the key of an earlier one, such as {shown(checked.example)}; "
            "only the first record of each key is kept"
        )
    if copies := checked.copies:
        notes.append(
            f"CHECK: {copies} of {checked.records} records {'is' if copies == 1 else 'are'} equal to an earlier one but for the key: "
            "copies, as of a join or a file that was appended twice, say nothing new, so remove them; measurements that came out "
            "alike may stay"
        )
    return notes


def _declaration_notes(checked: FileCheck, dataset: Dataset) -> list[str]:
    """Return messages about what works, but is perhaps not what the author of the declaration meant."""
    notes = []
    if checked.absent:
        notes.append(
            f"CHECK: the file has no column {_quoted(checked.absent)}, which is declared: the value is missing in every record"
        )
    if dataset.id and checked.without_key:
        every = checked.without_key == checked.records
        which = "no record has" if every else f"{checked.without_key} of {checked.records} records lack"
        notes.append(f"CHECK: {which} the key '{dataset.id}', so keys are made from the file's content and the row number")
    taken = {name for step in dataset.pipeline for name in step.inputs} | set(dataset.targets)
    taken |= {name for step in dataset.pipeline if isinstance(step, Drop) for name in step.columns}
    if unused := [column.name for column in dataset.columns if column.type != "text" and column.name not in taken]:
        notes.append(f"CHECK: no step uses the column {_quoted(unused)}; if that is intended, name it in a drop step")
    return notes


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _declare(file: Path, target: str, config: Path) -> list[str]:
    """Make the declaration of a file that has none; keep one that a person has changed since."""
    declaration, proposed = config / "dataset.yaml", config / "proposed.yaml"
    if declaration.is_file() and proposed.is_file() and declaration.read_bytes() != proposed.read_bytes():
        return [
            f"{file.name} has no dataset.yaml in its folder; the generated one, edited since, is used: {declaration} "
            "(remove it to generate another one)"
        ]
    description = describe(file, target)
    config.mkdir(parents=True, exist_ok=True)
    for path in (proposed, declaration):
        path.write_text(description.text(), encoding="utf-8")
    put_beside(declaration)
    notes = [f"{file.name} has no dataset.yaml in its folder, so one was generated from it: {declaration}"]
    if not description.target_was_named:
        notes.append(f"CHECK: no --target was named, so the last numeric column is predicted: '{description.target}'")
    if description.proposal.dropped:
        notes.append(f"unused columns: {', '.join(description.proposal.dropped)}; the declaration says why")
    return notes


def films(dataset: Dataset) -> list[Record]:
    """Return the 51 films that ship with kio, in kio's order, with keys that stay: ``film-001`` and so on."""
    from kio.dataset import example_dataset

    rows: list[Record] = [
        {ID: f"film-{number:03}", **film} for number, film in enumerate(cast(list[Record], example_dataset), 1)
    ]
    return raw_check(dataset)(rows)


def _write_films(file: Path, dataset: Dataset) -> None:
    lines = [{ID: film[ID], **{name: film[name] for name in dataset.raw_names}} for film in films(dataset)]
    file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
