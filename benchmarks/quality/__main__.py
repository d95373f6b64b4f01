"""``python -m benchmarks.quality``: measures what is missing for so long, and prints the tables."""

from __future__ import annotations

import argparse

from benchmarks.quality import fill, tables
from benchmarks.quality.methods import METHODS
from benchmarks.quality.results import Results
from benchmarks.quality.tables import FOLDS, FURTHER, REPEATS, SEED, TABLES
from benchmarks.run import keep_tables, write_page

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description="Measure how good the models are on public tables; what results.jsonl has is not measured again.",
        epilog=f"tables: {', '.join(TABLES | FURTHER)}; methods: {', '.join(METHODS)}",
    )
    parser.add_argument("tables", nargs="*", metavar="table", help="those to measure; the first ten unless given")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, separated by commas; all unless given")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"repeats of the {FOLDS} folds; {REPEATS} unless given")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no fold after so many")
    parser.add_argument("--keep", action="store_true", help="write docs/benchmarks.md with what there is")
    given = parser.parse_args()
    methods = given.methods.split(",")
    for kind, names, known in (("table", given.tables, TABLES | FURTHER), ("method", methods, METHODS)):
        if unknown := set(names) - set(known):
            parser.error(f"unknown {kind}: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    print(f"seed {SEED}, {FOLDS} folds x {given.repeats} repeats")
    results = Results()
    fill(results, given.tables or list(TABLES), methods, given.repeats, given.minutes)
    found = list(tables(results))
    print("\n".join(table.markdown() for table in found))
    if given.keep:
        keep_tables("quality", found, quick=False)
        write_page()
