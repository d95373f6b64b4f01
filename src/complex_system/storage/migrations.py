"""Which changes of a declaration the kept records allow."""

from __future__ import annotations

from collections.abc import Mapping

from complex_system.domain.dataset import Dataset
from complex_system.errors import DeclarationError

TEXTS = ("text", "category", "datetime")


def is_safe(before: str, after: str) -> bool:
    """Return whether every value of a declared type is also one of another type, without a conversion that could lose anything."""
    return before == after or (before, after) == ("integer", "number") or (before in TEXTS and after in TEXTS)


def refuse_other_types(where: str, before: Mapping[str, str], dataset: Dataset) -> None:
    """Compare the declared types with those of the kept records.

    Args:
        where: Name of the table or collection in messages.
        before: Types of the kept columns by declared name, where they are known.
        dataset: The present declaration.

    Raises:
        DeclarationError: A type has changed and kept values could not be read.
    """
    found = [
        f"'{column.name}' was declared as {_named(before[column.name])} and is declared as {_named(column.type)} now"
        for column in dataset.columns
        if column.name in before and not is_safe(before[column.name], column.type)
    ]
    if found:
        raise DeclarationError(
            f"{where} keeps records of another type: {'; '.join(found)}. Nothing was changed, and kept values are not converted: keep "
            "the type, declare the column under another name (in the source too), or begin with an empty database ('fiot run' with "
            "--fresh, which removes the kept records; else a database or a COMPLEX_SYSTEM_TABLE_PREFIX of its own). Only an integer "
            "may become a number, and text, category and datetime each other."
        )


def refuse_another_data_set(where: str, before: str, dataset: Dataset) -> None:
    """Keep two data sets out of one table: each would reject the other's records.

    Raises:
        DeclarationError: The records belong to a data set of another name.
    """
    if before and before != dataset.name:
        raise DeclarationError(
            f"{where} holds the records of the data set '{before}', and '{dataset.name}' is declared: give this deployment a "
            "COMPLEX_SYSTEM_TABLE_PREFIX or a database of its own, or the declaration its old name."
        )


def _named(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
