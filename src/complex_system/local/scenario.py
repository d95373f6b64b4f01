"""The scenarios that ``fiot run --scenario`` shows: their steps, and the settings with which minutes suffice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources

from complex_system.errors import StartError

NORMAL, BEGUN = "normal operation measured", "scenario begins"
DRIFT, ALERT, ROUND = "drift seen", "alert raised", "training round begins"
DECIDED, CHAMPION = "models compared", "new champion"
ERROR_DOWN, ENDED = "error back down", "alerts ended"

STEPS = {
    "shift": (NORMAL, BEGUN, DRIFT, ALERT, ROUND, CHAMPION, ERROR_DOWN, ENDED),
    "concept": (NORMAL, BEGUN, ALERT, ROUND, CHAMPION, ERROR_DOWN, ENDED),
    "noise": (NORMAL, BEGUN, ALERT, ROUND, DECIDED),
    "missing": (NORMAL, BEGUN, DRIFT, ALERT),
    "new_category": (NORMAL, BEGUN, ALERT),
}
"""What is expected to happen, in this order. What a scenario has no step for may happen as well."""

RULES = "COMPLEX_SYSTEM_ALERT_RULES"
HASTE = {
    "COMPLEX_SYSTEM_LIVE_RATE": "40",
    "COMPLEX_SYSTEM_PREDICTION_INTERVAL": "1",
    "COMPLEX_SYSTEM_PREDICTION_RECORDS": "20",
    "COMPLEX_SYSTEM_MONITORING_INTERVAL": "2",
    "COMPLEX_SYSTEM_MONITORING_WINDOW": "300",
    "COMPLEX_SYSTEM_SCENARIO_RAMP": "15",
    "COMPLEX_SYSTEM_RETRAIN_NEWEST": "1000",
    "COMPLEX_SYSTEM_RETRAIN_PAUSE": "30",
    # Only alerts shall start a round here; at this rate the growth of the data would, every minute.
    "COMPLEX_SYSTEM_RETRAIN_GROWTH": "1000",
}
"""Settings with which minutes suffice, where the environment does not say otherwise."""


def scenario_environment(name: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of a run with a scenario that are not set already; empty without a scenario.

    Args:
        name: Of the scenario, or None.
        environment: What the deployment's ``.env`` sets; our own environment counts as well.

    Raises:
        StartError: There is no scenario of that name.
    """
    if name is None:
        return {}
    if name not in STEPS:
        raise StartError(f"There is no scenario '{name}'; there are {', '.join(STEPS)}.")
    rules = str(resources.files("complex_system.monitoring.alerts") / "alerts-quick.yaml")
    known = {**os.environ, **environment}
    return {variable: value for variable, value in {**HASTE, RULES: rules}.items() if not known.get(variable)}
