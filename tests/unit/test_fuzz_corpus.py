"""Inputs that `make fuzz` found, and those that it began with: all are answered, quickly and within their memory."""

from __future__ import annotations

import pytest

from fuzzing import targets
from fuzzing.run import HERE, check


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_kept_input_is_answered(name: str) -> None:
    kept = sorted((HERE / "corpus" / name).iterdir())
    assert len(kept) >= len(targets.seeds()[name])
    for path in kept:
        check(name, path.read_bytes())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_seeds_are_good_inputs(name: str) -> None:
    """A search that begins with inputs that are refused at once finds nothing."""
    good = 0
    for data in targets.seeds()[name]:
        try:
            targets.TARGETS[name](data)
        except targets.ComplexSystemError:
            continue
        good += 1
    assert good >= 1
