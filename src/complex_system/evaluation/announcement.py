"""A comparison as it is announced, and kept in MLflow to be told again after a restart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from complex_system.evaluation.comparison import Comparison


def announced(comparison: Comparison, cause: str, alerts: Iterable[str]) -> dict[str, Any]:
    """The value of ``comparison-finished``, but for ``run_url``, which follows from where it is kept.

    Returns:
        ``round``, ``results`` (best first), ``champion``, ``holdout``, ``kept``, ``cause``, ``alerts``, ``ranked_by``; where models
        were cross-validated ``cross_validation`` (``records``, ``folds``, ``repeats``); where baselines were asked for ``baselines``,
        ``verdicts``, ``verdict`` and ``not_better_than``.
    """
    summary = comparison.champion.as_dict()
    told: dict[str, Any] = {
        "round": comparison.round,
        "results": [result.as_dict() for result in comparison.results],
        "champion": {name: summary[name] for name in ("model", "version", "framework", "trainer", "rmse")},
        "holdout": comparison.holdout,
        "kept": comparison.kept,
        "cause": cause,
        "alerts": list(alerts),
        "ranked_by": comparison.ranked_by,
    }
    if comparison.folds:
        told["cross_validation"] = comparison.folds
    if comparison.baselines:
        told["baselines"] = {name: quality.as_dict() for name, quality in comparison.baselines.items()}
        told["verdicts"] = {name: verdict.as_dict() for name, verdict in comparison.verdicts.items()}
        told["verdict"] = comparison.verdict
        told["not_better_than"] = list(comparison.unbeaten)
    return told
