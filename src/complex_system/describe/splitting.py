"""Proposes what the split goes by: settings that were measured several times, a batch or an order, or a time; and says why."""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import polars as pl

from complex_system.describe.inspection import InspectedColumn
from complex_system.describe.order import ProposedTime
from complex_system.describe.yaml_writer import comment, flow
from complex_system.domain.partition import Split

BATCH_NAME = re.compile(
    r"(?:^|[\W_])(?:batch|charge|lot|los|coil|melt|schmelze|abstich|campaign|kampagne|auftrag|order|job|wafer|(?:production)?run|"
    r"versuch|experiment|trial|patient|subject|proband)(?:e?s|en)?(?:[\W_]?(?:nummer|nr|no|id|number|num|name|\d+))?\.?$",
    re.IGNORECASE,
)
"""Names of columns whose values say what was made together."""
FEWEST = 10
"""Groups, or different times, from which on a split by them is proposed."""
_REPEATED = 0.6
"""At most so many different settings per record are settings that were measured several times ..."""
_LARGEST = 50
"""... and at least one per so many records: else there are few categories, and every new record has known ones."""
_CHANCE = 4.0
"""How many times more settings than records must be possible, for those that repeat not to do it by chance."""


@dataclass(frozen=True)
class ProposedSplit:
    """A split, and why.

    Attributes:
        split: What is declared.
        why: A sentence; empty for the usual split.
        is_sure: Whether it is declared; else a person has to say so, as of the time that it goes by.
    """

    split: Split = field(default_factory=Split)
    why: str = ""
    is_sure: bool = True


def propose_split(
    columns: Sequence[InspectedColumn],
    frame: pl.DataFrame,
    key: str,
    target: str,
    used: Collection[str],
    time: ProposedTime | None,
) -> ProposedSplit:
    """Propose a split; by key where nothing else is found.

    Args:
        columns: What each column holds.
        frame: The records.
        key: The key's column; empty for none.
        target: The column to predict.
        used: Columns that features are made of.
        time: What says when a record was made; None for nothing.
    """
    others = [column for column in columns if column.name not in (key, target) and column.name in frame.columns]
    features = [column for column in others if column.name in used and column.type in ("number", "integer", "category")]
    records = frame.unique([column.name for column in features] + [target])  # a copy is not a second measurement
    settings, left = repeated_settings(features, records)
    if settings:
        count = _different(records, settings)
        but = f" ({', '.join(left)} apart)" if left else ""
        why = (
            f"{records.height} different records are of {count} settings{but}, so most settings were measured several times"
        )
        return ProposedSplit(Split(by="group", group=settings), why)
    batch = next((column.name for column in others if _is_batch(column, frame)), "")
    groups = (
        f"'{batch}' says what was made together ({_different(frame, (batch,))} in {frame.height} records)" if batch else ""
    )
    if time is not None and (time.way or not batch) and _different(frame, (time.column,)) >= FEWEST:
        why = f"'{time.column}' says when a record was made" + (f", and {groups}" if batch else "")
        return ProposedSplit(Split(by="time", group=(batch,) if batch else ()), why, is_sure=bool(time.way))
    return ProposedSplit(Split(by="group", group=(batch,)), groups) if batch else ProposedSplit()


def split_lines(proposed: ProposedSplit, alike_by_chance: str) -> str:
    """Return the lines of a declaration for the split, with the reasons; empty for the usual one.

    Args:
        proposed: What was proposed.
        alike_by_chance: Why equal records are measurements of their own; empty where they are copies.
    """
    declared: dict[str, str | tuple[str, ...]] = {}
    made = ""
    if proposed.why:
        by = {"by": proposed.split.by, **({"group": proposed.split.group} if proposed.split.group else {})}
        judged = f"the error that models are judged by is that for {proposed.split.question}"
        if proposed.is_sure:
            declared |= by
            made += comment(
                f"{proposed.why}. So {judged}. Where the error for more of what is known already is wanted, remove "
                f"{' and '.join(f'{each!r}' for each in by)}."
            )
        else:
            made += comment(f"Where {proposed.why}, use the next line, too: then {judged}.") + f"# split: {flow(by)}\n"
    if alike_by_chance:
        declared["copies"] = "apart"
        made += comment(alike_by_chance)
    return made + (f"split: {flow(declared)}\n" if declared else "")


def repeated_settings(features: Sequence[InspectedColumn], frame: pl.DataFrame) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the features whose values together repeat, and those that differ within; none where too few repeat.

    Features that differ within, such as the age at which a sample of a mixture is tested, are found by leaving out, one after another
    and at most a quarter of them, the one without which most records are alike.
    """
    names = [column.name for column in features]
    is_measured = any(column.type != "category" and column.different > 2 for column in features)
    if not is_measured or frame.height < 2 * FEWEST:
        return (), ()
    few, most_left = _REPEATED * frame.height, max(1, len(features) // 4)
    hashes = {name: frame[name].hash(seed=place) for place, name in enumerate(names)}
    # Of one group more than features may be left out, one stays whole: where all of them differ, so does what is left.
    groups = [names[start :: most_left + 1] for start in range(min(len(names), most_left + 1))]
    if all(_together(hashes, group).n_unique() > few for group in groups):
        return (), ()
    left: list[str] = []
    whole = _together(hashes, names)
    while (count := whole.n_unique()) > few:
        if len(left) >= most_left or len(names) < 3:
            return (), ()
        counts = {name: (whole - hashes[name]).n_unique() for name in names}
        left.append(min(names, key=counts.__getitem__))
        names.remove(left[-1])
        whole = whole - hashes[left[-1]]
    possible = 1.0
    for column in features:
        possible *= max(1, column.different) if column.name in names else 1
    several = count >= FEWEST and frame.height <= _LARGEST * count
    return (tuple(names), tuple(left)) if several and possible > _CHANCE * frame.height else ((), ())


def _is_batch(column: InspectedColumn, frame: pl.DataFrame) -> bool:
    if not BATCH_NAME.search(column.name) or not (column.type in ("text", "category") or column.is_whole):
        return False
    if frame[column.name].dtype.is_nested():
        return False
    return FEWEST <= _different(frame, (column.name,)) <= _REPEATED * frame.height


def _together(hashes: Mapping[str, pl.Series], names: Sequence[str]) -> pl.Series:
    """Return a hash of each row's values in some columns: the sum of theirs modulo 2^64, from which one column can be taken off."""
    return reduce(operator.add, (hashes[name] for name in names))


def _different(frame: pl.DataFrame, names: Sequence[str]) -> int:
    return int(frame.select(names).hash_rows().n_unique())
