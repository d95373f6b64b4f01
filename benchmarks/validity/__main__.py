"""``python -m benchmarks.validity [--quick] [section ...]``: prints the tables; ``--keep`` writes them to the page, too."""

from __future__ import annotations

import argparse

from benchmarks.run import main, run_all
from benchmarks.validity import SECTIONS

if __name__ == "__main__":
    sections = "\n".join(f"  {name:<12}{what}" for name, what in SECTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validity",
        description="Measure whether the judgements are true: a section each, seeded, so that figures can be repeated.",
        epilog=f"sections:\n{sections}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sections", nargs="*", metavar="section", help="those to measure; all unless given")
    parser.add_argument(
        "--quick", action="store_true", help="fewer draws: figures are rougher, and aims may be missed by chance"
    )
    parser.add_argument("--keep", action="store_true", help="write docs/benchmarks.md, as make bench does")
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; sections are {', '.join(SECTIONS)}")
    programs = [f"validity.{name}" for name in given.sections or SECTIONS]
    (run_all if given.keep else main)(programs, quick=given.quick)
