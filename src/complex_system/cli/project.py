"""``complex-system``: begins a project; everything else is ``fiot``'s, in that project's folder."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from complex_system import __version__
from complex_system.errors import StartError

DEPLOYMENTS = ("mongo", "maria")
_PACKAGE = Path(__file__).parents[1]
_TEMPLATES, _LAB = _PACKAGE / "deploy" / "new_project", _PACKAGE / "domain" / "lab.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = _Parser(
        prog="complex-system",
        description="Begin a project. In its folder, `fiot` runs everything.",
        epilog="examples:\n  complex-system init my-plant\n  cd my-plant && fiot run mongo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"complex-system {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    init = commands.add_parser(
        "init",
        help="make a project folder: deployments, settings and an example data set",
        description="Make a project folder: deployments, settings, an example data set, and a package for services of your own.",
        epilog="example:\n  complex-system init my-plant",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    init.add_argument("folder", type=Path, help="a new or empty folder, such as my-plant")
    folder: Path = parser.parse_args(arguments).folder
    try:
        create_project(folder)
    except StartError as error:
        sys.stderr.write(f"complex-system init: {error.message}\n")
        return 1
    where = "" if folder.resolve() == Path.cwd() else f"  cd {os.path.relpath(folder)}\n"
    sys.stdout.write(
        f"{folder} is a project now. Run the whole system on this machine, until Ctrl-C:\n\n{where}  fiot run mongo\n\n"
        "README.md there says how to take your own data.\n"
    )
    return 0


class _Parser(argparse.ArgumentParser):
    """Says the right command for a wrong one."""

    @override
    def error(self, message: str) -> NoReturn:
        if found := re.search("invalid choice: '(.*?)'", message):
            hint = "'complex-system init FOLDER' begins a project; in it, fiot runs."
            if get_close_matches("init", [found[1]]):
                hint = "Did you mean 'complex-system init'?"
            message = f"there is no command '{found[1]}'. {hint}"
        super().error(message)


def create_project(folder: Path) -> None:
    """Write a project into a new or empty folder, whose name becomes the project's.

    Raises:
        StartError: The folder has content, its name cannot be a project's, or it cannot be written.
    """
    name = re.sub(r"\W", "_", folder.resolve().name.lower())
    if not re.match("[a-z]", name):
        raise StartError(f"'{folder.resolve().name}' cannot be the name of a project: it must begin with a letter.")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StartError(f"{folder} exists already, and is not an empty folder; name another one.")
        folder.mkdir(parents=True, exist_ok=True)
        for template, target in (("configure.py.txt", "configure.py"), ("README.md", "README.md")):
            text = (_TEMPLATES / template).read_text(encoding="utf-8").replace("{name}", name)
            (folder / target).write_text(text, encoding="utf-8")
        for template, target in (
            ("gitignore", ".gitignore"),
            ("dockerignore", ".dockerignore"),
            ("env.example", ".env.example"),
        ):
            shutil.copyfile(_TEMPLATES / template, folder / target)
        shutil.copyfile(_TEMPLATES / "requirements.txt", folder / "requirements.txt")
        for deployment in DEPLOYMENTS:
            config = folder / "deployments" / deployment / "config_dir"
            config.mkdir(parents=True)
            for file in ("deployment.yaml", "nats.conf"):
                shutil.copyfile(_TEMPLATES / "deployments" / deployment / file, config.parent / file)
            shutil.copyfile(_LAB, config / "dataset.yaml")
        services = folder / "src" / f"{name}_services"  # `fiot create new-service` wants a package, and git a file in it
        services.mkdir(parents=True)
        (services / "__init__.py").write_text('"""Services of our own."""\n', encoding="utf-8")
    except OSError as error:
        raise StartError(f"{folder} cannot be written: {error.strerror or error}.") from error
