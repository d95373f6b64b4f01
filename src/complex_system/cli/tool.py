"""``fiot`` as one tool: the same voice in all its help, groups and examples, and the right command for a wrong one.

The last of our extensions: it finds FastIoT's commands and ours registered, and what a project adds. Of FastIoT's commands it gives
texts and order only; those that do not concern a deployment of this system are not listed, and work as before.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import typer
from fastiot.cli.typer_app import app, create_cmd, extras_cmd
from typer.core import TyperGroup
from typer.models import CommandInfo
from typing_extensions import override

from complex_system.cli.shared import closest

_RUN, _DOCKER, _OWN = "Run", "With Docker", "Services of your own"
_PREPARE, _USE, _WATCH = "Prepare", "Predict and decide", "Look after it"


class _Command(NamedTuple):
    """How a command is shown.

    Attributes:
        panel: Its group; empty for one that is not listed.
        examples: Commands, each with what it does after a ``#``.
        help: In place of FastIoT's.
        options: Help of options and arguments in place of FastIoT's.
    """

    panel: str
    examples: tuple[str, ...] = ()
    help: str = ""
    options: dict[str, str] = {}  # noqa: RUF012 - none of them is changed


_DEPLOYMENT = "Deployment: a folder of deployments/."
_PROJECT = "Name of docker-compose's project; made of user, project and deployment by default."
_TEST = "The deployment of the integration tests, for CI."
_PULL = "Pull the images first."

_COMMANDS = {
    "run": _Command(
        _RUN,
        (
            "fiot run mongo  # everything, until Ctrl-C",
            "fiot run mongo --once --records 2000  # a quick test of one full cycle",
            "fiot run mongo --data plant/charges.csv  # a file of your own",
            "fiot run mongo --scenario shift  # a sensor drifts",
        ),
    ),
    "config": _Command(
        _DOCKER,
        ("fiot config mongo", "fiot config mongo -t 1.0 -r registry.example.org"),
        "Write a deployment's docker-compose file, and the variables of its containers.\n\n"
        "The files are in build/deployments/DEPLOYMENT. Call it again after each change of the deployment, its .env, or the release.",
        {
            "deployments": "Deployments: folders of deployments/; all that have a .env by default.",
            "tag": "Tag of the images.",
            "docker_registry": "Registry of the images.",
            "net": "Name of the containers' network.",
            "pull_always": "Pull the images before their manifests are read.",
            "use_test_deployment": _TEST,
            "port_offset": "Port of the first server, the next one has the next; 0 takes free ones. By default each has its own.",
            "use_port_import": "Keep the ports of the present configuration.",
        },
    ),
    "build": _Command(
        _DOCKER,
        ("fiot build --dry  # Dockerfiles alone", "fiot build ml_serving_mlflow"),
        "Build the services' images with Docker's buildx; without it, `python -m complex_system.deploy.images` does after "
        "`fiot build --dry`, which is `make images` in a clone.",
        {
            "services": "Names of services; all by default.",
            "mode": "debug has the sources; release compiles them with Nuitka.",
            "tag": "Tag of the images; several with commas between them.",
            "docker_registry": "Registry: the first part of the images' names.",
            "docker_registry_cache": "Registry with layers of earlier builds.",
            "platform": "amd64, arm64 or both with a comma, with --push; this machine's by default.",
            "dry": "Write the Dockerfiles, and build nothing.",
            "push": "Push the images to the registry.",
            "test_deployment_only": "The services of the integration tests' deployment alone, for CI.",
            "no_cache": "Build all layers anew.",
        },
    ),
    "start": _Command(
        _DOCKER,
        ("fiot start mongo -d", "fiot start mongo ml_serving_mlflow -d  # one service"),
        "Start a deployment's containers, as `fiot config` has written them.",
        {
            "deployment_name": _DEPLOYMENT,
            "service_names": "Names of services; all by default.",
            "detach": "Return at once; the containers go on.",
            "project_name": _PROJECT,
            "use_test_deployment": _TEST,
            "pull_always": _PULL,
        },
    ),
    "stop": _Command(
        _DOCKER,
        ("fiot stop mongo", "fiot stop mongo ml_serving_mlflow  # one service"),
        "Stop and remove a deployment's containers. The data stay.",
        {
            "deployment_name": _DEPLOYMENT,
            "service_names": "Names of services; all, and the network, by default.",
            "project_name": _PROJECT,
            "use_test_deployment": _TEST,
        },
    ),
    "deploy": _Command(
        _DOCKER,
        ("fiot deploy data training serving", "fiot deploy serving --dry  # the playbook alone"),
        "Copy configurations to the hosts that their deployment.yaml names, and start them there, with Ansible.",
        {
            "deployments": "Deployments: folders of deployments/.",
            "ask_pass": "Log in with a password instead of a key.",
            "dry": "Write the playbooks, and run none.",
        },
    ),
    "create": _Command(_OWN, (), "Write the first files of a service."),
    "run-tests": _Command(
        _OWN,
        ("fiot run-tests --start-deployment",),
        "Run the project's tests, beside its integration_test deployment if you say so.",
        {
            "start_deployment": "Start the deployment before, and stop it after.",
            "test_runner": "Program; pytest where it is installed.",
        },
    ),
    "print": _Command("", (), "Print a value of configure.py, for scripts."),
    "clean": _Command("", (), "Remove generated files; with --all also every container and image of this machine."),
    "extras": _Command(
        _RUN, (), "Prepare, use and look after a deployment: data, predictions, champions, backups, devices."
    ),
}
_CREATE = {
    "new-service": _Command(
        "Commands",
        ("fiot create new-service my_service --package my_plant_services",),
        "Write a service with a few first lines.",
        {
            "service_name": "Its name.",
            "service_package": "Package of src/ for it; needed where there are several.",
            "force": "Replace a service of that name.",
        },
    ),
    "new-project": _Command("", (), "FastIoT's own project. `complex-system init FOLDER` makes one of this system."),
    "pyproject-toml": _Command("", (), "Write a pyproject.toml for the project's library."),
}
_EXTRAS = {
    "init-env": _Command(_PREPARE, ("fiot extras init-env mongo", "fiot extras init-env mongo --add  # after an update")),
    "describe-data": _Command(
        _PREPARE, ("fiot extras describe-data plant/charges.csv --target Strength -o plant/dataset.yaml",)
    ),
    "opcua-browse": _Command(
        _PREPARE, ("fiot extras opcua-browse opc.tcp://10.0.0.5:4840 --machine press-4 -o opcua.yaml",)
    ),
    "add-device": _Command(
        _PREPARE, ("fiot extras add-device mongo press-4", "fiot extras add-device mongo hall-2.press-4")
    ),
    "service": _Command(_PREPARE, ("fiot extras service mongo --user plant -o /etc/systemd/system/my-plant.service",)),
    "monitoring-files": _Command(
        _PREPARE, ("fiot extras monitoring-files mongo --output watching --key-file .run/mongo/api_key",)
    ),
    "predict": _Command(
        _USE,
        (
            "fiot extras predict tomorrow.xlsx -o predictions.csv",
            "fiot extras predict tomorrow.csv --url http://plant-7:8001  # of another machine",
        ),
    ),
    "predictions": _Command(_USE, ("fiot extras predictions --from 2026-11-01 --to 2026-11-08 -o week.parquet",)),
    "champion": _Command(_USE),
    "retrain": _Command(_USE, ("fiot extras retrain -d mongo 4f6d1c0b8a7e4d5c9b3a2f1e0d9c8b7a",)),
    "backup": _Command(_WATCH, ("fiot extras backup mongo backups/monday",)),
    "restore": _Command(_WATCH, ("fiot extras restore mongo backups/monday",)),
    "dead-letters": _Command(
        _WATCH,
        (
            "fiot extras dead-letters mongo --payload",
            "fiot extras dead-letters mongo --replay --number 7",
            "fiot extras dead-letters mongo --remove --source press-4",
        ),
    ),
    "conflicts": _Command(_WATCH, ("fiot extras conflicts mongo --csv > conflicts.csv",)),
    "test-message": _Command(_WATCH, ("fiot extras test-message mongo",)),
    **{
        name: _Command("") for name in ("build-lib", "nuitka-compile", "remove-all-container", "set-requirements", "version")
    },
}
_CHAMPION = {
    "list": _Command("Commands", ("fiot extras champion list mongo",)),
    "approve": _Command("Commands", ('fiot extras champion approve mongo --reason "checked on line 4"',)),
    "pin": _Command("Commands", ('fiot extras champion pin mongo --reason "trial with the customer until Friday"',)),
    "unpin": _Command("Commands", ('fiot extras champion unpin mongo --reason "the trial is over"',)),
    "roll-back": _Command("Commands", ('fiot extras champion roll-back mongo --reason "scrap on line 4"',)),
}
_TABLES = {"": _COMMANDS, "extras": _EXTRAS, "create": _CREATE, "champion": _CHAMPION}
_HELP = (
    "A machine-learning system for plants, from records to served predictions: on this machine, or with Docker.\n\n"
    "Commands work in a project's folder, or below it; `complex-system init FOLDER` makes a project."
)
_EXAMPLES = ("fiot run mongo", "fiot extras predict tomorrow.csv -o predictions.csv", "fiot run --help")


class Group(TyperGroup):
    """Commands in the order of the tables above, and the right place of one that is asked for in the wrong one."""

    @override
    def list_commands(self, ctx: Any) -> list[str]:
        order = list(_TABLES.get(self.name or "", {})) or list(_COMMANDS)
        names: list[str] = super().list_commands(ctx)
        return sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    @override
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            places = _places(ctx.find_root().command)
            near = closest(name, self.commands)
            there = places.get(name) or (f"{ctx.command_path} {near}" if near else places.get(closest(name, places)))
            hint = f"Did you mean '{there}'?" if there else f"'{ctx.command_path} --help' lists all."
            ctx.fail(f"There is no command '{name}'{' here' if name in places else ''}. {hint}")
        return super().resolve_command(ctx, args)


def _places(group: Any, path: str = "fiot") -> dict[str, str]:
    """All commands with their groups, by name."""
    found: dict[str, str] = {}
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            found = {**_places(command, f"{path} {name}"), **found}
        found.setdefault(name, f"{path} {name}")
    return found


def _show_version(value: bool) -> None:
    if value:
        from complex_system import __version__

        typer.echo(f"complex-system {__version__}")
        raise typer.Exit


def _main(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the release and exit."
    ),
) -> None:
    pass


def _arrange() -> None:
    """Give all registered commands their texts."""
    app.callback(cls=Group, help=_HELP, epilog=_epilog(_EXAMPLES), no_args_is_help=True)(_main)
    for group, name in ((app, ""), (extras_cmd, "extras"), (create_cmd, "create")):
        group.info.cls, group.info.no_args_is_help = Group, True
        for command in group.registered_commands:
            _dress(command, _TABLES[name].get(_name(command)))
        for each in group.registered_groups:
            shown = _TABLES[name].get(each.name or "")
            each.rich_help_panel, each.help = (shown.panel, shown.help or each.help) if shown else (None, each.help)
            if each.name == "champion" and each.typer_instance:
                each.cls = Group
                for command in each.typer_instance.registered_commands:
                    _dress(command, _CHAMPION.get(_name(command)))


def _name(command: CommandInfo) -> str:
    return command.name or (command.callback.__name__.strip("_").replace("_", "-") if command.callback else "")


def _dress(command: CommandInfo, shown: _Command | None) -> None:
    text = command.help or inspect.getdoc(command.callback) or ""
    if shown is not None:
        command.hidden = not shown.panel
        command.rich_help_panel = shown.panel or None
        command.epilog = _epilog(shown.examples)
        text = shown.help or text
        for name, option in _options(command):
            option.help = shown.options.get(name, option.help)
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _options(command: CommandInfo) -> Iterator[tuple[str, Any]]:
    if command.callback is not None:
        for name, parameter in inspect.signature(command.callback).parameters.items():
            if hasattr(parameter.default, "help"):
                yield name, parameter.default


def _epilog(examples: tuple[str, ...]) -> str | None:
    """Examples, one a line: a blank line between them is what the help makes a line of."""
    return "\n\n".join(("Examples:" if len(examples) > 1 else "Example:", *examples)) if examples else None


_arrange()
