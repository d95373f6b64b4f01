"""Pages of the site that are generated from the code while it is built, and links from the repository's pages to files."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_OURS = "complex_system."
_FILES = {
    "SECURITY.md": "project/security-policy",
    "CHANGELOG.md": "project/changelog",
    "CONTRIBUTING.md": "project/contributing",
    "CODE_OF_CONDUCT.md": "project/conduct",
}
"""Files of the repository that are pages of the site."""


def settings() -> str:
    """Return the tables of all settings, from .env.example, which a test compares with the settings' class."""
    lines = ["# Settings", "", "Environment variables of the services, with their defaults.", ""]
    comment: list[str] = []
    for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            lines += ["", line, "", "| variable | default | |", "|---|---|---|"]
        elif line.startswith("# "):
            comment.append(line[2:])
        elif line.startswith("#") and "=" in line:
            name, default = line[1:].split("=", 1)
            lines.append(f"| `{name}` | {f'`{default}`' if default else 'none'} | {_cell(' '.join(comment))} |")
            comment = []
        else:
            comment = []
    return "\n".join(lines)


def errors() -> str:
    """Return the table of all errors."""
    from complex_system.errors import ERRORS_BY_CODE
    from complex_system.http.responses import HTTP_STATUS

    rows = [
        f"| `{code}` | {HTTP_STATUS.get(code, 500)} | {_cell(_first(kind))} |"
        for code, kind in sorted(ERRORS_BY_CODE.items())
    ]
    text = "Over HTTP, `error.code` in the body; over NATS, `error_code` of the error reply; both have a message for people."
    return "\n".join(["# Errors", "", text, "", "| code | HTTP status | |", "|---|---|---|", *rows])


def metrics() -> str:
    """Return the table of serving's metrics for Prometheus, as a process without models gives them."""
    from typing import cast

    from complex_system.domain.dataset import Dataset
    from complex_system.pipeline.pipeline import Pipeline
    from complex_system.serving.metrics import OutsideCounters, ServingMetrics
    from complex_system.serving.models.manager import ModelManager
    from complex_system.serving.models.source import ModelSource

    nothing = ModelManager(cast(ModelSource, None), Pipeline(Dataset.load()))
    found = ServingMetrics(nothing, broker_connected=lambda: True)
    found.registry.register(OutsideCounters())
    rows = [
        f"| `{family.name}{'_total' if family.type == 'counter' else ''}` | {family.type} | {_cell(family.documentation)} |"
        for family in sorted(found.registry.collect(), key=lambda each: each.name)
    ]
    text = (
        "For Prometheus, at `/metrics` of each serving service. `ml_monitoring` gives its newest figures at its own `/metrics`, "
        "as `monitoring_GROUP_FIGURE`; [they are listed here](../services/ml_monitoring.md#metrics)."
    )
    return "\n".join(["# Metrics", "", text, "", "| metric | type | |", "|---|---|---|", *rows])


def commands() -> str:
    """Return our commands of ``fiot`` with their arguments and options."""
    os.chdir(ROOT)
    import complex_system.messaging  # noqa: F401 - FastIoT with our mends, before anything else imports it

    # isort: split
    import fastiot.cli.typer_app  # before the extensions, as fiot does
    import typer
    from fastiot.cli.model.project import ProjectContext

    assert ProjectContext.default.extensions
    group: Any = typer.main.get_command(fastiot.cli.typer_app.app)
    found = dict(_commands(group))
    lines = ["# Commands", "", "`complex-system init FOLDER` begins a project. In its folder, or in a clone:", ""]
    theirs = []
    for name, command in found.items():
        callback = inspect.unwrap(command.callback) if command.callback else None
        if callback is None or not callback.__module__.startswith(_OURS):
            if callback is not None and not command.hidden:
                theirs.append(f"| `fiot {name}` | {_cell((command.help or '').partition(chr(10) * 2)[0])} |")
            continue
        arguments = " ".join(each.name.upper() for each in command.params if each.param_type_name == "argument")
        lines += [
            f"## `fiot {name}`",
            "",
            f"```text\nfiot {name} {arguments}\n```".replace(" \n", "\n"),
            "",
            command.help or "",
            "",
        ]
        if examples := (command.epilog or "").partition("\n\n")[2]:
            lines += ["```text", *examples.split("\n\n"), "```", ""]
        options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
        if options:
            lines += ["| option | |", "|---|---|"]
            lines += [f"| `{_option(each)}` | {_cell(each.help or '')} |" for each in options]
            lines.append("")
    lines += [
        "## FastIoT's own",
        "",
        "`fiot COMMAND --help` has their options.",
        "",
        "| command | |",
        "|---|---|",
        *theirs,
        "",
    ]
    return "\n".join(lines)


def _commands(group: Any, begin: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of a group and of the groups in it, by what is written behind ``fiot``; its own commands first."""
    below = {name: command for name, command in group.commands.items() if hasattr(command, "commands")}
    yield from ((begin + name, command) for name, command in group.commands.items() if name not in below)
    for name, command in below.items():
        yield from _commands(command, f"{begin}{name} ")


def _option(option: Any) -> str:
    """How an option is written: its names, those that switch it off, and what it takes."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    kind = option.type.name.upper().strip("<>")
    return names if option.is_flag else f"{names} {'N' if kind.startswith(('INT', 'FLOAT')) else _KINDS.get(kind, kind)}"


_KINDS = {"STR": "TEXT", "FILE": "PATH", "DIRECTORY": "PATH"}


GENERATED: dict[str, Callable[[], str]] = {
    "reference/settings": settings,
    "reference/errors": errors,
    "reference/metrics": metrics,
    "reference/commands": commands,
}


def _first(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _file(name: str) -> str:
    """Return a file of the repository as a page of project/: its links begin at the repository's root."""

    def link(found: re.Match[str]) -> str:
        target = found[1]
        if target in _FILES:
            return f"]({Path(_FILES[target]).name}.md"
        return f"](../{target.removeprefix('docs/')}" if target.startswith("docs/") else f"](../../{target}"

    return re.sub(r"\]\((?!https?:|mailto:|#)([^)#]+)", link, (ROOT / name).read_text(encoding="utf-8"))


def _read(app: Any, name: str, source: list[str]) -> None:
    """Replace a generated page's text, and lead links to files of the repository to their pages."""
    if name in GENERATED:
        source[0] = GENERATED[name]()
    for file, page in _FILES.items():
        if name == page:
            source[0] = _file(file)
            return
        here = "../" * name.count("/")
        source[0] = source[0].replace(f"]({here}../{file}", f"]({here}{page}.md")


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
