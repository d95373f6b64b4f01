"""Search for inputs that break a reader: ``python -m fuzzing.run [--seconds 60] [TARGET ...]``, as ``make fuzz`` does.

Coverage guides the search (atheris). An input must be answered within a second of processor time, and the memory that it takes
must stay within a multiple of what it is, unpacked. What breaks is written to ``.fuzz/<target>/``: repair the reader, and keep the
input in ``tests/fuzzing/corpus/<target>/``, where ``make test`` tries it from then on.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
FOUND = Path(".fuzz")
MAX_BYTES = 20_000
"""Bytes of an input; larger ones are slower to try and find no more."""
SECONDS = 1.0
"""Processor time of one input."""
MEMORY = 100_000_000
MEMORY_PER_BYTE = 500
"""Bytes that one input may take: so many, and so many more for each of its bytes."""
UNPACKED = 1100
"""A gzip file of so many bytes may have one packed byte: the most that its format allows."""


def check(name: str, data: bytes) -> None:
    """Give an input to a target, and fail if it took too long or too much."""
    from fuzzing.targets import run

    began, before = time.process_time(), _peak()
    run(name, data)
    took, grown = time.process_time() - began, _peak() - before
    if took > SECONDS:  # once more, for imports and the garbage collector are not the input's
        began = time.process_time()
        run(name, data)
        took = time.process_time() - began
    if took > SECONDS:
        raise AssertionError(f"{name}: {len(data)} bytes took {took:.1f} s")
    if grown > allowed(name, data):
        raise AssertionError(f"{name}: {len(data)} bytes took {grown / 1e6:.0f} MB")


def allowed(name: str, data: bytes) -> int:
    """Return how many bytes of memory an input may take."""
    return MEMORY + MEMORY_PER_BYTE * len(data) * (UNPACKED if name == "packed" else 1)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def search(name: str, seconds: int) -> None:
    """Search for one target in this process; the process ends with it."""
    import atheris

    with atheris.instrument_imports(include=["complex_system", "msgpack", "fastiot.core"]):
        from fuzzing import targets

    for _ in range(2):  # what is imported and made at the first use is not the input's
        for seed in sorted((HERE / "corpus" / name).iterdir()):
            targets.run(name, seed.read_bytes())
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1",
        f"-artifact_prefix={found}/", "-verbosity=0", str(found / "corpus"), str(HERE / "corpus" / name),
    ]  # fmt: skip
    (found / "corpus").mkdir(exist_ok=True)
    atheris.Setup([sys.argv[0], *options], lambda data: check(name, data))
    atheris.Fuzz()


def main() -> None:
    """Search for each target in a process of its own."""
    names = sorted(each.name for each in (HERE / "corpus").iterdir())
    arguments = argparse.ArgumentParser(description="Search for inputs that break a reader.")
    arguments.add_argument("targets", nargs="*", choices=[*names, []], help=f"of {', '.join(names)}; all by default")
    arguments.add_argument("--seconds", type=int, default=60, help="for each target")
    arguments.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.alone:
        search(given.targets[0], given.seconds)
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    broken = []
    for name in given.targets or names:
        print(f"{name}: {given.seconds} s", flush=True)
        command = [sys.executable, "-m", "fuzzing.run", "--alone", "--seconds", str(given.seconds), name]
        if subprocess.run(command, env=environment, check=False).returncode != 0:
            broken.append(name)
    if broken:
        sys.exit(f"Inputs that break {', '.join(broken)} are in {FOUND}/.")
    print("Nothing broke.")


if __name__ == "__main__":
    main()
