"""What may change in a declaration while the same table or collection keeps the records."""

from __future__ import annotations

from collections.abc import Mapping

from complex_system.domain.dataset import Dataset
from complex_system.errors import DeclarationError

TEXTS = ("text", "category", "datetime")


def is_safe(before: str, after: str) -> bool:
    """Whether every value of a declared type is one of another type too, without a conversion that could lose anything."""
    return before == after or (before, after) == ("integer", "number") or (before in TEXTS and after in TEXTS)


def refuse_other_types(where: str, before: Mapping[str, str], dataset: Dataset) -> None:
    """Compares the declared types with those under which records were kept.

    Args:
        where: What messages call the table or collection.
        before: Type by declared name, of the columns whose type is known.
        dataset: The present declaration.

    Raises:
        DeclarationError: A type has changed so that kept values could not be read.
    """
    found = [
        f"'{column.name}' was declared as {_named(before[column.name])} and is declared as {_named(column.type)} now"
        for column in dataset.columns
        if column.name in before and not is_safe(before[column.name], column.type)
    ]
    if found:
        raise DeclarationError(
            f"{where} keeps records of another type: {'; '.join(found)}. Nothing was changed, and kept values are not converted by "
            "themselves: keep the type, declare the column under another name (in the source too), or begin anew ('fiot run' with "
            "--fresh, which removes the kept records; else a database or a COMPLEX_SYSTEM_TABLE_PREFIX of its own). Only an integer "
            "may become a number, and text, category and datetime each other."
        )


def refuse_another_data_set(where: str, before: str, dataset: Dataset) -> None:
    """Keeps two data sets from one table: each would have the other's records rejected.

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
