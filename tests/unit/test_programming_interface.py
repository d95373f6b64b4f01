"""docs/reference/api.md lists what the how-tos' classes are written with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from documented import ROOT

API = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
STABILITY = (ROOT / "docs" / "reference" / "stability.md").read_text(encoding="utf-8")
MAY_CHANGE = {f"complex_system.storage.{name}" for name in ("arrow", "conflicts", "envelope")}
_DIRECTIVE = re.compile(r"^\.\. auto(module|class|function|data):: (\S+)\n((?:   :.*\n)*)", re.MULTILINE)


def imports() -> Iterator[tuple[str, str]]:
    """Module and name of each import of ours in the examples of the how-tos."""
    for path in (path for name in ("database", "classes") for path in (ROOT / "examples" / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "complex_system":
                yield from ((str(node.module), each.name) for each in node.names)
            assert not isinstance(node, ast.Import) or "complex_system" not in ast.dump(node), "import its names"


def defined(module: str) -> set[str]:
    """The classes, functions and documented constants of a module, as autodoc finds them."""
    path = ROOT / "src" / Path(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    body = ast.parse(source.read_text(encoding="utf-8")).body
    found = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    for node, after in pairwise(body):
        if isinstance(node, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found |= {each.id for each in node.targets if isinstance(each, ast.Name)}
    return found


def listed() -> set[str]:
    """What the page lists, by its full name."""
    found = set()
    for kind, name, options in _DIRECTIVE.findall(API):
        if kind != "module":
            found.add(name)
            continue
        members = re.search(r":members: (.+)", options)
        excluded = re.search(r":exclude-members: (.+)", options)
        names = set(members[1].split(", ")) if members else defined(name)
        found |= {f"{name}.{each}" for each in names - set(excluded[1].split(", ") if excluded else ())}
    return found


def test_the_classes_of_the_how_tos_import_what_is_listed_or_may_change() -> None:
    found = listed()
    assert "complex_system.storage.base.DataStore" in found
    used = set(imports())
    assert len(used) > 20
    assert [
        f"{module}.{name}" for module, name in sorted(used) if module not in MAY_CHANGE and f"{module}.{name}" not in found
    ] == []


def test_both_pages_name_the_modules_that_may_change() -> None:
    marked = API.partition("### What stores share")[2].partition("```")[0]
    assert "may change in a minor release" in marked
    for module in MAY_CHANGE:
        assert f"`{module}`" in marked
        assert f"`{module}`" in STABILITY
