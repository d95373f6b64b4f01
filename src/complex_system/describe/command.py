"""What ``fiot extras describe-data`` does."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TextIO

from complex_system.describe.describe import describe, refused
from complex_system.domain.json_schema import put_beside
from complex_system.errors import DescribeError


def describe_to(file: Path, target: str, output: Path | None, *, force: bool, out: TextIO, err: TextIO) -> None:
    """Describes a file: shows what was found, and writes the declaration.

    Args:
        file: The records.
        target: The column to predict; the last column of numbers when empty.
        output: Where to write the declaration; None for ``out``.
        force: Whether to replace a declaration that is there.
        out: Takes the declaration, or the summary when the declaration goes to a file.
        err: Takes the summary when the declaration goes to ``out``, and warnings.

    Raises:
        SourceFileError: The file cannot be read.
        DescribeError: No declaration can be made of it, or it cannot be written.
    """
    try:
        from rich.console import Console

        from complex_system.describe.summary import summary
    except ImportError as error:
        raise DescribeError(
            "The summary is drawn by rich, which is not there: pip install 'complex-system[local]'."
        ) from error
    # Looked for before the work: a declaration that a person wrote is not lost.
    if output and output.exists() and not force:
        raise DescribeError(f"{output} is there already; --force replaces it.")
    description = describe(file, target)
    count, first = refused(description)
    Console(file=err if output is None else out).print(summary(description))
    if count:
        err.write(f"{count} of {description.records} records cannot be processed; {first}\n")
    if output is None:
        out.write(description.text())
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(description.text(), encoding="utf-8")
        put_beside(output)
    except OSError as error:
        raise DescribeError(f"{output} cannot be written: {error.strerror or error}.") from error
    beside = "" if output.parent.resolve() == file.parent.resolve() else f", put {file.name} beside it"
    called = "" if output.name == "dataset.yaml" else ", call it dataset.yaml"
    run = f"fiot run mongo --data {shlex.quote(str(output.parent / file.name))}"
    out.write(f"{output} written. Read it, change what you know better{called}{beside}, then: {run}\n")
