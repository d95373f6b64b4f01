"""Messages as services publish them, with what a test does not say filled in."""

from __future__ import annotations

from typing import Any

from complex_system.protocol.operations import Alert, Heartbeat
from complex_system.protocol.training import ChampionChanged, ChampionSummary, ComparedModel, ComparisonFinished


def heartbeat(service: str, **fields: Any) -> Heartbeat:
    return Heartbeat(**{"service": service, "replica": "a", "started": 1.0, **fields})


def alert(key: str, began: float, **fields: Any) -> Alert:
    usual = {"rule": "drift", "metric": "drift/psi/x", "subject": "x", "severity": "warning", "retrain": False, "since": began,
             "value": 0.5, "newest": 0.5, "threshold": 0.25, "sentence": "Look at it."}  # fmt: skip
    return Alert(**{"key": key, "began": began, **usual, **fields})


def champion(model: str = "lab-pytorch", version: str = "3", rmse: float = 10.0, **fields: Any) -> ChampionChanged:
    return ChampionChanged(**{"model": model, "version": version, "rmse": rmse, "framework": "pytorch", **fields})


def compared(model: str, version: str, rmse: float, **fields: Any) -> ComparedModel:
    usual = {"trainer": "pytorch", "framework": "pytorch", "mae": 0.8 * rmse, "r2": 0.97}
    return ComparedModel(**{"model": model, "version": version, "rmse": rmse, **usual, **fields})


def comparison(*results: ComparedModel, **fields: Any) -> ComparisonFinished:
    best = results[0]
    summary = ChampionSummary(model=best.model, version=best.version, framework=best.framework, rmse=best.rmse)
    return ComparisonFinished(**{"round": "r-5", "results": results, "champion": summary, "holdout": 1000, **fields})
