"""Commands for people who operate a deployment or bring data: ``fiot extras init-env``, ``add-device`` and others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from fastiot.cli.model.project import ProjectContext
from fastiot.cli.typer_app import DEFAULT_CONTEXT_SETTINGS, extras_cmd

from complex_system.cli.shared import (
    Deployed,
    config_of,
    errors_of,
    infrastructure_of,
    over_the_broker,
    read_deployment,
    say,
)
from complex_system.errors import StartError

if TYPE_CHECKING:
    from complex_system.settings import Settings


@extras_cmd.command("init-env", context_settings=DEFAULT_CONTEXT_SETTINGS)
def init_env(
    deployment: Deployed,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing .env.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Add what an existing .env lacks, and change nothing else.")] = False,
) -> None:
    """Write a deployment's .env with random passwords for its servers and their users, and a key for its REST interfaces."""
    from complex_system.deploy.env_file import add_secrets, env_text, missing_variables, write_env

    context = ProjectContext.default
    path = Path(context.env_file_for_deployment(deployment))
    with errors_of("extras init-env"):
        config = config_of(deployment)
        if add and path.is_file():
            missing = missing_variables(infrastructure_of(config), context.env_for_deployment(deployment), config.services)
            added = add_secrets(path, missing, "Added by `fiot extras init-env --add`")
            typer.echo(f"{path}: {', '.join(added) or 'nothing'} added; next: `fiot config {deployment}`.")
            return
        write_env(path, env_text(deployment, infrastructure_of(config), config.services), replace=force)
    typer.echo(f"{path} is written; next: `fiot config {deployment}` and `fiot start {deployment}`.")


@extras_cmd.command("service", context_settings=DEFAULT_CONTEXT_SETTINGS)
def service(
    deployment: Deployed,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write the unit to; the terminal by default.")
    ] = None,
    user: Annotated[str, typer.Option(help="Account of this machine that runs it; yours by default.")] = "",
    locked: Annotated[
        bool,
        typer.Option("--locked/--open", help="Ask for passwords and a key everywhere, or let all users of this machine in."),
    ] = True,
) -> None:
    """Write a unit of systemd that runs a deployment from the start of the machine on, without Docker."""
    import getpass

    from complex_system.deploy.systemd import service_unit

    root = Path(ProjectContext.default.project_root_dir).resolve()
    with errors_of("extras service"):
        config_of(deployment)
        options = ["--locked"] if locked else []
        text = service_unit(Path(sys.executable).with_name("fiot"), root, deployment, user or getpass.getuser(), options)
        if output is None:
            typer.echo(text, nl=False)
            return
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StartError(f"{output} cannot be written: {error.strerror or error}.") from error
    typer.echo(f"{output} is written; next: `systemctl daemon-reload` and `systemctl enable --now {output.name}`.")


@extras_cmd.command("add-device", context_settings=DEFAULT_CONTEXT_SETTINGS)
def add_device(
    deployment: Deployed,
    device: Annotated[str, typer.Argument(help="Name of the device, for instance press-4 or hall-2.press-4.")],
) -> None:
    """Make a user of the broker for a device: it may publish records and readings under its own name, and nothing else.

    The password is kept in the deployment's .env.
    """
    from complex_system.deploy.env_file import add_secrets
    from complex_system.messaging.nats_client import inbox_prefix
    from complex_system.messaging.users import device_user

    context = ProjectContext.default
    path = Path(context.env_file_for_deployment(deployment))
    with errors_of("extras add-device"):
        config_of(deployment)
        user = device_user(device)
        if user.variable in context.env_for_deployment(deployment):
            raise StartError(f"The device '{device}' has a user already; its password is {user.variable} in {path}.")
        [password] = add_secrets(path, [user.variable], f"Device {device}, by `fiot extras add-device`").values()
    topic = device.replace(".", "/")
    typer.echo(
        f"user          {device}\npassword      {password}\nrecords       ingest-raw-datapoints.{device}\n"
        f"readings      things.{device}.NAME, or v1.thing.{device}.NAME as FastIoT sends them\n"
        f"MQTT topics   ingest-raw-datapoints/{topic} and things/{topic}/NAME, where the broker takes MQTT\n"
        f"inbox prefix  {inbox_prefix(device)}\n\nThe broker knows it after `fiot config {deployment}` and "
        f"`fiot start {deployment} -d`, or at the next `fiot run {deployment} --locked`."
    )


@extras_cmd.command("dead-letters", context_settings=DEFAULT_CONTEXT_SETTINGS)
def dead_letters(
    deployment: Deployed,
    payload: Annotated[bool, typer.Option("--payload", help="Show the payload, too.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Publish them again on their original subjects.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove them.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of dead letters, the oldest first.")] = 100,
    number: Annotated[int | None, typer.Option(min=1, help="Only the dead letter with this number.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Only those of this source: the part of the subject below the ingest's.")
    ] = None,
) -> None:
    """Show the published messages that could not be accepted, each with its reason; publish them again, or remove them.

    The broker is the one in the deployment's .env, by default on this machine; FASTIOT_NATS_PORT takes precedence over its port.
    """
    from complex_system.messaging.operators import Action, manage_dead_letters

    if replay and remove:
        raise typer.BadParameter(
            "--replay removes what it publishes; --remove removes without publishing. Name one of them."
        )
    action: Action = "replay" if replay else "remove" if remove else "payload" if payload else "show"
    over_the_broker(
        "extras dead-letters",
        deployment,
        lambda settings: manage_dead_letters(settings, action, say, limit=limit, number=number, source=source),
    )


@extras_cmd.command("conflicts", context_settings=DEFAULT_CONTEXT_SETTINGS)
def conflicts(
    deployment: Deployed,
    csv: Annotated[bool, typer.Option("--csv", help="Write a CSV with a row for each value that lost.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of conflicts, by key: 100, or all with --csv.", show_default=False),
    ] = None,
) -> None:
    """Show records that came under keys that exist with other values: key, time, sources, and the columns with both values.

    The deployment must run: its database service answers. The broker is the one in the deployment's .env, by default on this machine;
    FASTIOT_NATS_PORT takes precedence over its port.
    """
    from complex_system.messaging.operators import list_conflicts

    most = limit or (None if csv else 100)
    over_the_broker("extras conflicts", deployment, lambda settings: list_conflicts(settings, say, as_csv=csv, limit=most))


@extras_cmd.command("test-message", context_settings=DEFAULT_CONTEXT_SETTINGS)
def test_message(deployment: Deployed) -> None:
    """Send a test message to every receiver of alerts, the webhook and Apprise's services, and say of each whether it has it.

    The deployment must run: ml_monitoring sends it. The exit code is 1 where a receiver does not have it, or there is none.
    """
    from complex_system.messaging.operators import send_test_messages

    async def send(settings: Settings) -> None:
        if not await send_test_messages(settings, say):
            raise typer.Exit(1)

    over_the_broker("extras test-message", deployment, send)


@extras_cmd.command("monitoring-files", context_settings=DEFAULT_CONTEXT_SETTINGS)
def monitoring_files(
    deployment: Deployed,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to; it is created.", file_okay=False)],
    host: Annotated[str, typer.Option(help="Where the services answer.")] = "127.0.0.1",
    key_file: Annotated[
        Path | None, typer.Option(help="File with the API key, where the services ask for one.", dir_okay=False)
    ] = None,
) -> None:
    """Write scrape configuration, alert rules and dashboards for a Prometheus and a Grafana of your own.

    A deployment that names prometheus and grafana among its infrastructure-services gets them with `fiot config`.
    """
    from complex_system.deploy.observability import PROMETHEUS_PORT, SCRAPED, scrape_configuration, write_files

    with errors_of("extras monitoring-files"):
        found = read_deployment(deployment)
        targets = {
            service.name: f"{host}:{found.environment.get(variable, port)}"
            for service in found.services
            if service.name in SCRAPED
            for variable, port in list(service.ports.items())[:1]
        }
        key = str(key_file.resolve()) if key_file else ""
        write_files(output, scrape_configuration(targets, key), f"http://127.0.0.1:{PROMETHEUS_PORT}")
    typer.echo(f"{output} is written: prometheus/prometheus.yaml with rules, and grafana/dashboards to import.")


@extras_cmd.command("describe-data", context_settings=DEFAULT_CONTEXT_SETTINGS)
def describe_data(
    file: Annotated[
        Path, typer.Argument(help="CSV, TSV, JSON lines, Excel or Parquet; the suffix says which.", dir_okay=False)
    ],
    target: Annotated[str, typer.Option(help="Column to predict; the last numeric column by default.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write the declaration to; the terminal by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing declaration.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="File to write the data-quality report to; report.html beside the declaration by default."),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
) -> None:
    """Read a file of records and write a first declaration of its data set, with comments.

    Show what the columns seem to hold, what is suspicious, and whether every record can be processed.
    """
    from complex_system.describe.command import describe_to

    with errors_of("extras describe-data"):
        beside = output.with_name("report.html") if output else None
        report = None if no_report else report or beside
        describe_to(file, target, output, force=force, report=report, out=sys.stdout, err=sys.stderr)


@extras_cmd.command("opcua-browse", context_settings=DEFAULT_CONTEXT_SETTINGS)
def opcua_browse(
    url: Annotated[str, typer.Argument(help="Address of the server, such as opc.tcp://10.0.0.5:4840.")],
    machine: Annotated[str, typer.Option(help="Machine that the sensors are of.")] = "machine-1",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write the declaration to; the terminal by default.")
    ] = None,
    certificate: Annotated[str, typer.Option(help="Our certificate, where the server asks for one.")] = "",
    key: Annotated[str, typer.Option(help="Its private key.")] = "",
) -> None:
    """List the variables of an OPC UA server as a first opcua.yaml, with their units and present values.

    User and password are those of COMPLEX_SYSTEM_OPCUA_USER and COMPLEX_SYSTEM_OPCUA_PASSWORD. With a certificate, messages are signed
    and encrypted (Basic256Sha256).
    """
    import asyncio

    from complex_system.settings import Settings
    from complex_system.sources.opcua.browsing import browse, declaration_text
    from complex_system.sources.opcua.declaration import OpcUaDeclaration

    with errors_of("extras opcua-browse"):
        if output and output.exists():
            raise StartError(f"{output} exists already; name another file.")
        security = f"security: {{certificate: '{certificate}', key: '{key}'}}\n" if certificate or key else ""
        declaration = OpcUaDeclaration.parse(
            f"endpoint: {url}\n{security}nodes: [{{node: i=84, machine: root, name: root}}]\n", url
        )
        settings = Settings()
        found = asyncio.run(browse(declaration, settings.opcua_user, settings.opcua_password))
        text = declaration_text(declaration, machine, found)
        if output is None:
            typer.echo(text, nl=False)
            return
        output.write_text(text, encoding="utf-8")
    typer.echo(f"{output} has {len(found.variables)} variables; delete those that no record needs.")
