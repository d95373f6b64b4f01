"""One version, and what a release says about itself."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

import conf

from complex_system import __version__
from complex_system.deploy.images import build_command

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_version_is_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "complex_system.__version__"}
    assert conf.release == __version__
    assert f"org.opencontainers.image.version={__version__}" in build_command(Path("Dockerfile"), "a:1", {})
    written = [
        path.relative_to(ROOT).as_posix()
        for folder in ("src", "docs", "deployments")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".toml", ".j2")
        and re.search(rf"""["'=:]v?{re.escape(__version__)}\b""", path.read_text())
    ]
    assert written == ["src/complex_system/__init__.py"]


def test_the_documentation_names_the_wheel_of_this_release() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    names = {name for page in pages for name in re.findall(r"complex_system-([\d.]+)-py3", page.read_text(encoding="utf-8"))}
    assert names == {__version__}


def test_no_page_asks_an_index_for_the_package_which_is_not_published() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    asked = re.compile(r"""pip install (?:-\S+ )*["']?complex-system(?! \./)""")
    assert [page.name for page in pages if asked.search(page.read_text(encoding="utf-8"))] == []


def test_the_newest_release_of_the_changelog_is_this_one_and_says_how_to_upgrade() -> None:
    releases = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", CHANGELOG, re.MULTILINE)
    newest, *_ = [(name, day) for name, day in releases if name != "Unreleased"]
    assert newest[0] == __version__
    days = [date.fromisoformat(day) for name, day in releases if name != "Unreleased"]
    assert days == sorted(days, reverse=True)
    section = CHANGELOG.partition(f"## [{__version__}]")[2].partition("\n## ")[0]
    assert "### Upgrading" in section
    assert "docs/how-to/upgrade.md" in section
