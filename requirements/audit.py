"""Compare the tested versions of all packages with published vulnerabilities: ``make audit [ARGS="--vulnerability-service osv"]``.

Findings that do not concern us are accepted in ``audit.toml`` beside this file: their number, a reason, and a date until which that
holds. An accepted finding that is out of date, or that is no longer found, is said, and the first counts again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ACCEPTED = Path(__file__).with_name("audit.toml")
TOOL = "pip-audit==2.10.1"


class Finding(NamedTuple):
    """A published vulnerability of a package in its tested version."""

    file: str
    package: str
    version: str
    ids: tuple[str, ...]
    fixed: tuple[str, ...]


class Accepted(NamedTuple):
    """A finding that does not concern us until a day."""

    id: str
    reason: str
    until: date


def findings(constraints: Path, options: list[str]) -> list[Finding]:
    """Return what is published about the versions in a file of constraints.

    Args:
        constraints: The file; every line is a name and a version.
        options: Further options of pip-audit.

    Raises:
        SystemExit: The comparison could not be made, for some package or for all.
    """
    command = [
        sys.executable, "-m", "uv", "tool", "run", "--from", TOOL, "pip-audit",
        "--requirement", str(constraints), "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off",
        *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        raise SystemExit(f"{constraints.name} could not be audited:\n{done.stderr[-2000:]}") from None
    if skipped := [each for each in packages if "skip_reason" in each]:
        raise SystemExit(
            f"{constraints.name}: {len(skipped)} of {len(packages)} packages could not be audited: {skipped[0]['skip_reason']}. "
            'The JSON interface of PyPI has to be reachable, or OSV: make audit ARGS="--vulnerability-service osv".'
        )
    return [
        Finding(constraints.name, p["name"], p["version"], (v["id"], *v["aliases"]), tuple(v["fix_versions"]))
        for p in packages
        for v in p.get("vulns", ())
    ]


def accepted_findings(text: str) -> list[Accepted]:
    """Return the entries of ``audit.toml``."""
    return [Accepted(each["id"], each["reason"], each["until"]) for each in tomllib.loads(text).get("accepted", ())]


def judge(found: list[Finding], accepted: list[Accepted], today: date) -> tuple[list[str], list[str]]:
    """Return what has to be done, a line each, and what is only said."""
    valid = {each.id: each for each in accepted if each.until >= today}
    open_findings, notes = [], []
    for finding in found:
        entry = next((valid[name] for name in finding.ids if name in valid), None)
        line = f"{finding.file}: {finding.package} {finding.version}: {', '.join(finding.ids)}"
        if entry is None:
            fix = f"fixed in {', '.join(finding.fixed)}" if finding.fixed else "not fixed yet"
            open_findings.append(f"{line}; {fix}")
        else:
            notes.append(f"{line}; accepted until {entry.until}: {entry.reason}")
    seen = {name for finding in found for name in finding.ids}
    notes += [f"{ACCEPTED.name}: {each.id} is no longer found; remove it" for each in accepted if each.id not in seen]
    notes += [f"{ACCEPTED.name}: {each.id} was accepted until {each.until}" for each in accepted if each.until < today]
    return open_findings, notes


def main() -> None:
    """Audit every file of constraints; the exit code is 1 where something has to be done."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split(":")[0] + ".",
        epilog=f"Further options are those of {TOOL}, such as --vulnerability-service osv.",
    )
    _, options = parser.parse_known_args()
    files = sorted([*ROOT.glob("constraints*.txt"), *(ROOT / "requirements").glob("constraints*.txt")])
    found = [finding for file in files for finding in findings(file, options)]
    to_do, notes = judge(found, accepted_findings(ACCEPTED.read_text(encoding="utf-8")), datetime.now(UTC).date())
    for line in (*notes, *to_do):
        print(line)  # noqa: T201
    print(f"{len(to_do)} finding(s) to act on in {', '.join(file.name for file in files)}")  # noqa: T201
    raise SystemExit(bool(to_do))


if __name__ == "__main__":
    main()
