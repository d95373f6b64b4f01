"""Experiments of MLflow by name."""

from __future__ import annotations

from typing import Any

from complex_system.tracking.connection import is_refusal


def experiment_id(client: Any, name: str) -> str:
    """Id of an experiment, which is made when it is missing; two services may do so at once."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except Exception as error:
            if not is_refusal(error, "RESOURCE_ALREADY_EXISTS"):
                raise
            experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id)
