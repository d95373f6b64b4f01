"""The command ``fiot extras predict``, an extension of FastIoT's command line."""

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


@extras_cmd.command("predict", context_settings=DEFAULT_CONTEXT_SETTINGS)
def predict(
    file: Annotated[
        Path,
        typer.Argument(
            help="Rows to predict: CSV, TSV, JSON lines, Excel or Parquet; the suffix says which.", dir_okay=False
        ),
    ],
    deployment: Annotated[
        str,
        typer.Option(
            "--deployment",
            "-d",
            help="Whose champion predicts. By default the one that `fiot run` runs, else the service on this machine.",
            show_default=False,
            autocompletion=deployment_names,
        ),
    ] = "",
    url: Annotated[
        str, typer.Option(help="Address of the serving service, for example https://plant-7:8001.", show_default=False)
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write the CSV to; the terminal by default.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    ca: Annotated[
        Path | None,
        typer.Option(help="Certificate of the authority that signed the service's own, with https.", show_default=False),
    ] = None,
) -> None:
    """Predict every row of a file and write a CSV: key, prediction, model, faults.

    The file has the columns of the file that the data set was declared for; what is predicted may be missing, and further columns are
    ignored. A row that cannot be predicted has its faults in place of a prediction, and the others are predicted all the same. Without
    a key column, the first column of the CSV is the row's number; the header is not counted.

    Where the service asks for an API key, it is taken from the deployment, or from COMPLEX_SYSTEM_API_KEY in the environment. The exit
    code is 0 where every row has a prediction, 2 where some have faults, and 1 where the command failed.

        fiot extras predict tomorrow.xlsx -o predictions.csv
    """
    from complex_system.predict.file import predict_command

    with errors_of(_COMMAND):
        client = _client(deployment, url, ca)
        raise typer.Exit(
            predict_command(
                file, client, output, force=force, out=sys.stdout, err=sys.stderr, say=lambda text: say(text, err=True)
            )
        )


def _client(deployment: str, url: str, ca: Path | None) -> RestClient:
    """Return a client of the service that the command line names."""
    from complex_system.local.plan import run_directory
    from complex_system.predict.client import RestClient, running_service, service_of
    from complex_system.settings import Settings

    context = ProjectContext.default
    root = Path(context.project_root_dir)
    if deployment:
        config_of(deployment)
    runs = {
        name: run_directory(name, root) for name in ([deployment] if deployment else deployment_names() if not url else [])
    }
    found = running_service(runs, Settings().api_key)
    if found is None:
        environment = context.env_for_deployment(deployment) if deployment else {}
        found = service_of({**environment, **os.environ})
    return RestClient(url or found.url, found.api_key, ca)
