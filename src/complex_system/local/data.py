"""``fiot run --data``: the whole system on a file of one's own, or on a data set that ships with the package."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec

from complex_system.describe.describe import describe, refused
from complex_system.domain.columns import ID
from complex_system.domain.dataset import SHIPPED, Dataset
from complex_system.domain.schema import put_beside
from complex_system.errors import SourceFileError
from complex_system.settings import Settings
from complex_system.sources.replay import ReplayFile
from complex_system.training.data import MIN_SAMPLES, Part, parts_of

FEWEST_LABELLED = 30
"""Labelled records below which no training round is started, however small the file."""
_BATCH = 5000


@dataclass(frozen=True)
class ChosenData:
    """What a run is told about its data.

    Attributes:
        options: Variables for the services.
        notes: What the person who started the run should know.
    """

    options: Mapping[str, str]
    notes: tuple[str, ...] = ()


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
    keys = _labelled(file, dataset)
    labelled = len(keys)
    name = f"_{dataset.name}" + (f"_{hashlib.sha256(target.encode()).hexdigest()[:6]}" if target else "")
    settings = Settings.of(given)
    options = {
        "FASTIOT_CONFIG_DIR": str(config),
        "COMPLEX_SYSTEM_SOURCE_FILE": str(file),
        "COMPLEX_SYSTEM_TARGET": target if len(dataset.targets) > 1 else "",
        "FASTIOT_MONGO_DB_NAME": settings.mongo_name + name,
        "COMPLEX_SYSTEM_MARIA_NAME": settings.maria_name + name,
        "COMPLEX_SYSTEM_MIN_LABELLED": str(max(FEWEST_LABELLED, min(settings.min_labelled, labelled))),
    }
    notes.append(
        f"data set '{dataset.name}' of {config / 'dataset.yaml'}, {labelled} labelled records; it predicts '{dataset.target}'"
    )
    if labelled < FEWEST_LABELLED:
        notes.append(
            f"{labelled} labelled records are fewer than the {FEWEST_LABELLED} that a training needs: none will be started"
        )
    elif few := _too_small(keys):
        notes.append(
            f"CHECK: too few labelled records for a training: {few}, and {MIN_SAMPLES} are needed. Records are divided by their keys "
            "into 70 % train, 15 % validation and 15 % holdout; some more will do"
        )
    return ChosenData(options, tuple(notes))


def _declare(file: Path, target: str, config: Path) -> list[str]:
    description = describe(file, target)
    count, first = refused(description)
    config.mkdir(parents=True, exist_ok=True)
    declaration = config / "dataset.yaml"
    declaration.write_text(description.text(), encoding="utf-8")
    put_beside(declaration)
    notes = [f"{file.name} has no dataset.yaml beside it, so one was made of it: {declaration}"]
    if not description.target_was_named:
        notes.append(f"CHECK: no --target was named, so the last column of numbers is predicted: '{description.target}'")
    if description.proposal.dropped:
        notes.append(f"columns that are not used: {', '.join(description.proposal.dropped)}; the declaration says why")
    return [*notes, f"{count} records cannot be processed; {first}"] if count else notes


def _write_films(file: Path, dataset: Dataset) -> None:
    from complex_system.sources.films import films

    lines = [{ID: film[ID], **{name: film[name] for name in dataset.raw_names}} for film in films(dataset)]
    file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def _labelled(file: Path, dataset: Dataset) -> list[str]:
    """The keys of the labelled records."""
    return [
        row.record[ID]
        for rows in ReplayFile(file, dataset).batches(_BATCH)
        for row in rows
        if not row.fault and row.record.get(dataset.target) is not None
    ]


def _too_small(keys: list[str]) -> str:
    """Which parts of the split have too few labelled records to train and to compare with; empty for none."""
    parts = parts_of(keys)
    sizes = {part.name.lower(): int((parts == part).sum()) for part in Part}
    return ", ".join(f"the {name} part has {size}" for name, size in sizes.items() if size < MIN_SAMPLES)
