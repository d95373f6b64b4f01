"""The commands ``fiot extras champion`` and ``fiot extras retrain``: who is champion, and how a model was made."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer
from fastiot.cli.typer_app import DEFAULT_CONTEXT_SETTINGS, extras_cmd

from complex_system.cli.shared import Deployed, deployment_names, over_the_broker, say

if TYPE_CHECKING:
    from complex_system.protocol.promotion import Action

_HELP = "Decide which model version is the champion, with name and reason, and list what was decided."
champion_cmd = typer.Typer(help=_HELP, no_args_is_help=True)
extras_cmd.add_typer(champion_cmd, name="champion")

Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept and shown.", show_default=False)]
Who = Annotated[str, typer.Option("--who", help="Your name; the user name by default.", show_default=False)]
Model = Annotated[
    str, typer.Option("--model", help="Registered name, for a version other than the usual one.", show_default=False)
]
Version = Annotated[str, typer.Option("--version", help="Its version or alias; the newest by default.", show_default=False)]


@champion_cmd.command("list", context_settings=DEFAULT_CONTEXT_SETTINGS)
def list_decisions(deployment: Deployed) -> None:
    """Show champion, candidate, pin, and who decided what, when and why.

    The deployment must run: ml_consumer answers. The broker is the one in the deployment's .env, by default on this machine;
    FASTIOT_NATS_PORT takes precedence over its port.
    """
    from complex_system.messaging.operators import show_promotion

    over_the_broker("extras champion list", deployment, lambda settings: show_promotion(settings, say))


@champion_cmd.command("approve", context_settings=DEFAULT_CONTEXT_SETTINGS)
def approve(deployment: Deployed, reason: Reason, who: Who = "", model: Model = "", version: Version = "") -> None:
    """Make the candidate the champion, or another version."""
    _decide("approve", deployment, who, reason, model, version)


@champion_cmd.command("pin", context_settings=DEFAULT_CONTEXT_SETTINGS)
def pin(deployment: Deployed, reason: Reason, who: Who = "") -> None:
    """Keep the champion, whatever training rounds find, until it is unpinned."""
    _decide("pin", deployment, who, reason)


@champion_cmd.command("unpin", context_settings=DEFAULT_CONTEXT_SETTINGS)
def unpin(deployment: Deployed, reason: Reason, who: Who = "") -> None:
    """Let training rounds change the champion again."""
    _decide("unpin", deployment, who, reason)


@champion_cmd.command("roll-back", context_settings=DEFAULT_CONTEXT_SETTINGS)
def roll_back(deployment: Deployed, reason: Reason, who: Who = "", model: Model = "", version: Version = "") -> None:
    """Return to the champion before, or to another version; no round crowns the present one again.

    A new training may make a better model than the one that is champion then; pin the champion to keep that from replacing it.
    """
    _decide("roll-back", deployment, who, reason, model, version)


@extras_cmd.command("retrain", context_settings=DEFAULT_CONTEXT_SETTINGS)
def retrain(
    run: Annotated[str, typer.Argument(help="Id of a training's run in MLflow.")],
    deployment: Annotated[
        str,
        typer.Option(
            "--deployment",
            "-d",
            help="Deployment whose .env names broker and MLflow; the environment by default.",
            show_default=False,
            autocompletion=deployment_names,
        ),
    ] = "",
) -> None:
    """Train a model again on the records that it was trained on, and compare the two.

    The records are fetched from the running system and checked against the list of keys and contents that the run has. Where some are
    gone or were replaced, the command says how many, and names the first. Nothing is logged or registered. The exit code is 0 where
    the model is the same one.
    """
    from complex_system.service_layer.training.retrain import retrain_run

    over_the_broker("extras retrain", deployment, lambda settings: retrain_run(settings, run, say))


def _decide(action: Action, deployment: str, who: str, reason: str, model: str = "", version: str = "") -> None:
    from complex_system.messaging.operators import decide_on_champion
    from complex_system.protocol.promotion import ChampionRequest

    asked = ChampionRequest(action=action, who=who or getpass.getuser(), why=reason, model=model, version=version)
    over_the_broker(f"extras champion {action}", deployment, lambda settings: decide_on_champion(settings, asked, say))
