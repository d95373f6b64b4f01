"""The commands ``fiot extras predict`` and ``predictions``, extensions of FastIoT's command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from fastiot.cli.model.project import ProjectContext
from fastiot.cli.typer_app import DEFAULT_CONTEXT_SETTINGS, extras_cmd

from complex_system.cli.shared import config_of, deployment_names, errors_of, say

if TYPE_CHECKING:
    from complex_system.predict.client import RestClient

_COMMAND = "extras predict"

FromDeployment = Annotated[
    str,
    typer.Option(
        "--deployment",
        "-d",
        help="Which deployment answers. By default the one that `fiot run` runs, else the service on this machine.",
        show_default=False,
        autocompletion=deployment_names,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Authority = Annotated[
    Path | None,
    typer.Option("--ca", help="Certificate of the authority that signed the service's own, with https.", show_default=False),
]


@extras_cmd.command("predict", context_settings=DEFAULT_CONTEXT_SETTINGS)
def predict(
    file: Annotated[
        Path,
        typer.Argument(
            help="Rows to predict: CSV, TSV, JSON lines, Excel or Parquet; the suffix says which.", dir_okay=False
        ),
    ],
    deployment: FromDeployment = "",
    url: Annotated[
        str, typer.Option(help="Address of the serving service, for example https://plant-7:8001.", show_default=False)
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write the CSV to; the terminal by default.", show_default=False),
    ] = None,
    force: Force = False,
    ca: Authority = None,
) -> None:
    """Predict every row of a file and write a CSV: key, prediction, model, faults.

    The file has the columns of the file that the data set was declared for; what is predicted may be missing, and further columns are
    ignored. A row that cannot be predicted has its faults in place of a prediction, and the others are predicted all the same. Without
    a key column, the first column of the CSV is the row's number; the header is not counted.

    Where the service asks for an API key, it is taken from the deployment, or from COMPLEX_SYSTEM_API_KEY in the environment. The exit
    code is 0 where every row has a prediction, 2 where some have faults, and 1 where the command failed.
    """
    from complex_system.predict.file import predict_command

    with errors_of(_COMMAND):
        client = rest_client(deployment, url, ca)
        raise typer.Exit(
            predict_command(
                file, client, output, force=force, out=sys.stdout, err=sys.stderr, say=lambda text: say(text, err=True)
            )
        )


@extras_cmd.command("predictions", context_settings=DEFAULT_CONTEXT_SETTINGS)
def predictions(
    since: Annotated[
        str,
        typer.Option(
            "--from",
            help="Begin in UTC, such as 2026-11-01 or 2026-11-01T06:00; by default a week.",
            show_default=False,
        ),
    ] = "",
    until: Annotated[str, typer.Option("--to", help="End, itself not included; now by default.", show_default=False)] = "",
    form: Annotated[
        str, typer.Option("--format", help="csv or parquet; by default what the file's suffix says, else csv.")
    ] = "",
    model: Annotated[str, typer.Option(help="Registered name; all models by default.", show_default=False)] = "",
    version: Annotated[str, typer.Option(help="Registered version; all by default.", show_default=False)] = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; standard output by default.", show_default=False),
    ] = None,
    force: Force = False,
    deployment: FromDeployment = "",
    url: Annotated[
        str, typer.Option(help="Address of ml_monitoring, for example https://plant-7:8003.", show_default=False)
    ] = "",
    ca: Authority = None,
) -> None:
    """Write the served predictions of a period beside the true values: key, time, prediction, truth, model and more.

    docs/handing-over.md has the columns. The service of the deployment is found as for `predict`, with its API key.
    """
    from complex_system.predict.predictions import predictions_command

    with errors_of("extras predictions"):
        client = rest_client(deployment, url, ca, monitoring=True)
        predictions_command(
            client, since, until, form, output, model=model, version=version, force=force, out=sys.stdout.buffer,
            say=lambda text: say(text, err=True),
        )  # fmt: skip


def rest_client(deployment: str, url: str, ca: Path | None, *, monitoring: bool = False) -> RestClient:
    """Return a client of the serving service that the command line names, or of its monitoring."""
    from complex_system.local.plan import run_directory
    from complex_system.predict.client import MONITORING, SERVICES, RestClient, running_service, service_of
    from complex_system.settings import Settings

    context = ProjectContext.default
    root = Path(context.project_root_dir)
    if deployment:
        config_of(deployment)
    runs = {
        name: run_directory(name, root) for name in ([deployment] if deployment else deployment_names() if not url else [])
    }
    services = MONITORING if monitoring else SERVICES
    found = running_service(runs, Settings().api_key, services)
    if found is None:
        environment = context.env_for_deployment(deployment) if deployment else {}
        found = service_of({**environment, **os.environ}, services)
    return RestClient(url or found.url, found.api_key, ca, "monitoring service" if monitoring else "serving service")
