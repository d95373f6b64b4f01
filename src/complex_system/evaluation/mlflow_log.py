"""What MLflow keeps of a comparison: a parent run with a table and a chart, and a nested run for each model."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from complex_system.domain.dataset import Dataset
from complex_system.evaluation.announcement import announced
from complex_system.evaluation.chart import rmse_chart
from complex_system.evaluation.comparison import Comparison
from complex_system.tracking.connection import experiment_id, load_mlflow, open_client, run_url, translated

TABLE = "comparison.json"
CHART = "comparison.png"
ANNOUNCED = "announced.json"
_FIGURES = ("rmse", "mae", "r2", "rmse_low", "rmse_high")
_ALERTS = 10
"""Ids of alerts that are kept of a round."""
_KIND, _ORIGIN, _DATASET, _VERSION, _CHANGED = "kind", "origin", "dataset", "pipeline_version", "champion_changed"


@dataclass(frozen=True)
class Origin:
    """Where the models of a comparison come from.

    Attributes:
        labelled: Labelled records at the round; None for a comparison that no training round asked for.
        cause: ``growth``, ``alert`` or ``schedule``.
        after: The models were trained and compared on records with larger keys only; None for all.
        alerts: Ids of the alerts that asked for it.
    """

    labelled: int | None
    cause: str = "growth"
    after: str | None = None
    alerts: Iterable[str] = ()


class ComparisonLog:
    """Comparisons of one data set in one MLflow experiment. Blocking; runs in a thread.

    Every method raises ``TrackingUnavailableError`` when MLflow does not answer.
    """

    def __init__(self, tracking_uri: str, experiment: str, dataset: Dataset, best_possible: float | None = None) -> None:
        """Prepares the log; nothing is sent yet.

        Args:
            tracking_uri: MLflow server.
            experiment: Name of the experiment; made when it is missing.
            dataset: What the models are for.
            best_possible: Lowest RMSE that any model can reach, where it is known.
        """
        self._uri = tracking_uri
        self._experiment = experiment
        self._dataset = dataset
        self._best_possible = best_possible
        self._unit = dataset.column(dataset.target).unit

    def last_labelled(self) -> int | None:
        """How many labelled records there were at the last training round of this pipeline version that was carried out to its end."""
        client = open_client(self._uri)
        with translated(self._uri, "looking for the last comparison"):
            run = self._newest(client, {_ORIGIN: "round"})
        labelled = run.data.params.get("labelled") if run else None
        return int(labelled) if labelled else None

    def last(self) -> dict[str, Any] | None:
        """The newest comparison of this pipeline version that was finished, as it was announced; None if there is none."""
        client = open_client(self._uri)
        with translated(self._uri, "reading the last comparison"), tempfile.TemporaryDirectory() as folder:
            run = self._newest(client, {})
            if run is None:
                return None
            names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
            name = ANNOUNCED if ANNOUNCED in names else TABLE
            path = client.download_artifacts(run.info.run_id, name, folder)
            table = json.loads(Path(path).read_text(encoding="utf-8"))
        if name == ANNOUNCED:
            return {**table, "run_url": run_url(self._uri, run.info.experiment_id, run.info.run_id)}
        # Of an earlier release, which kept the table only.
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        champion = next(row for row in rows if row["champion"])
        return {
            "round": run.data.params.get("round", ""),
            "results": [{name: row[name] for name in row if name != "champion"} for row in rows],
            "champion": {name: champion[name] for name in ("model", "version", "framework", "trainer", "rmse")},
            "holdout": int(run.data.params.get("holdout", 0)),
            "run_url": run_url(self._uri, run.info.experiment_id, run.info.run_id),
            "kept": run.data.params.get("kept", ""),
            "cause": run.data.params.get("cause", ""),
            "alerts": [each for each in run.data.params.get("alerts", "").split(" ") if each],
        }

    def last_after(self) -> str | None:
        """The key after which the newest training round that crowned a model began; None where it had all records."""
        client = open_client(self._uri)
        with translated(self._uri, "looking for the last champion"):
            run = self._newest(client, {_ORIGIN: "round", _CHANGED: "True"})
        return run.data.params.get("after") if run else None

    def _newest(self, client: Any, tags: dict[str, str]) -> Any:
        """The newest finished comparison of this pipeline version with these tags; one that was cut off has no champion."""
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return None
        wanted = {_KIND: "comparison", _DATASET: self._dataset.name, _VERSION: self._dataset.version, **tags}
        conditions = ["attributes.status = 'FINISHED'", *(f"tags.{name} = '{value}'" for name, value in wanted.items())]
        runs = client.search_runs(
            [experiment.experiment_id], " and ".join(conditions), max_results=1, order_by=["attributes.start_time DESC"]
        )
        return runs[0] if runs else None

    def log(self, comparison: Comparison, origin: Origin, known: dict[str, str]) -> str:
        """Logs a comparison. It counts only after :meth:`finish`.

        Args:
            comparison: What came out.
            origin: Where its models come from.
            known: Ids of runs that were made; give the same dict again to go on where MLflow failed, without a second run.

        Returns:
            Address of the parent run in MLflow's pages.
        """
        client = open_client(self._uri)
        with translated(self._uri, "logging the comparison"):
            experiment = experiment_id(client, self._experiment)
            runs = _Runs(client, experiment, known)
            parent = runs.of(_parent_name(comparison), {
                _KIND: "comparison", _ORIGIN: "schedule" if origin.labelled is None else "round", _DATASET: self._dataset.name,
                _VERSION: self._dataset.version, "round": comparison.round, _CHANGED: str(comparison.is_change),
                **_judged(comparison),
            })  # fmt: skip
            runs.write(parent, self._parent_metrics(comparison), {
                "round": comparison.round,
                "holdout": comparison.holdout,
                "labelled": origin.labelled,
                "cause": origin.cause,
                "after": origin.after,
                "alerts": " ".join(list(origin.alerts)[:_ALERTS]) or None,
                "kept": comparison.kept or None,
                "champion": f"{comparison.champion.ref.model} {comparison.champion.ref.version}",
                "champion_framework": comparison.champion.ref.framework,
                "champion_changed": comparison.is_change,
                "not_better_than": ", ".join(comparison.unbeaten) or None,
                "refused": "; ".join(comparison.refused.values())[:500] or None,
            })  # fmt: skip
            client.log_dict(parent, announced(comparison, origin.cause, origin.alerts), ANNOUNCED)
            client.log_figure(parent, rmse_chart(comparison, self._best_possible, self._unit), CHART)
            if TABLE not in {artifact.path for artifact in client.list_artifacts(parent)}:  # log_table would append
                client.log_table(parent, _table(comparison), TABLE)
            for result in comparison.results:
                ref = result.ref
                run = runs.of(f"{ref.model}-v{ref.version}", {_KIND: "comparison-model", "mlflow.parentRunId": parent})
                runs.write(run, _metrics(result.as_dict()), {
                    "model": ref.model, "version": ref.version, "framework": ref.framework, "trainer": ref.trainer,
                    "training_run": ref.run_id, "incumbent": result.incumbent,
                })  # fmt: skip
                client.set_terminated(run)
        return run_url(self._uri, experiment, parent)

    def finish(self, comparison: Comparison, known: dict[str, str]) -> None:
        """Ends the run of a comparison, after all that follows from it was done: a restart before that repeats the round.

        Args:
            comparison: The comparison that was logged.
            known: The dict that :meth:`log` filled.
        """
        client = open_client(self._uri)
        with translated(self._uri, "ending the comparison"):
            client.set_terminated(known[_parent_name(comparison)])

    def _parent_metrics(self, comparison: Comparison) -> dict[str, float]:
        metrics = _metrics(comparison.champion.as_dict())
        if self._best_possible is not None:
            metrics["best_possible_rmse"] = self._best_possible
        for name, quality in comparison.baselines.items():
            metrics[f"baseline_{name}_rmse"] = quality.scores.rmse
            if quality.cross is not None:
                metrics[f"baseline_{name}_cv_rmse"] = quality.cross.rmse
        for result in comparison.results:
            trainer = result.ref.trainer or result.ref.model
            metrics[f"rmse/{trainer}{'-until-now' if result.incumbent else ''}"] = result.scores.rmse
        return metrics


class _Runs:
    """The runs of one comparison; those that an earlier try made are found again in ``known``."""

    def __init__(self, client: Any, experiment: str, known: dict[str, str]) -> None:
        self._client = client
        self._experiment = experiment
        self._known = known

    def of(self, name: str, tags: dict[str, str]) -> str:
        """Id of the run of that name."""
        if name not in self._known:
            self._known[name] = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
        return self._known[name]

    def write(self, run: str, metrics: dict[str, float], params: dict[str, Any]) -> None:
        """Logs metrics and those parameters that have a value."""
        entities = load_mlflow().entities
        now = int(time.time() * 1000)
        self._client.log_batch(
            run,
            [entities.Metric(name, value, now, 0) for name, value in metrics.items()],
            [entities.Param(name, str(value)) for name, value in params.items() if value is not None],
        )


def _parent_name(comparison: Comparison) -> str:
    return f"comparison-{comparison.round}"


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    """The figures of a result, named by where they come from."""
    figures = {f"holdout_{name}": row[name] for name in _FIGURES if name in row}
    return figures | {f"cv_{name}": value for name, value in row.get("cv", {}).items()}


def _judged(comparison: Comparison) -> dict[str, str]:
    """Tags that say what the ranking goes by and what is to be thought of the champion."""
    words = {f"against_{name}": verdict.word for name, verdict in comparison.verdicts.items()}
    return {"ranked_by": comparison.ranked_by, **words, **({"verdict": comparison.verdict} if comparison.verdict else {})}


def _table(comparison: Comparison) -> dict[str, list[Any]]:
    """The models best first, then the baselines, which are no model and have no version; what is not known is None."""
    rows = [{**result.as_dict(), "champion": result is comparison.champion} for result in comparison.results]
    nobody = {"trainer": "", "framework": "baseline", "version": ""}
    for name, quality in comparison.baselines.items():
        rows.append({**nobody, "model": name, **quality.as_dict(), "champion": False})
    flat = [
        {
            **{name: row[name] for name in row if name != "cv"},
            **{f"cv_{name}": value for name, value in row.get("cv", {}).items()},
        }
        for row in rows
    ]
    columns = dict.fromkeys(name for row in flat for name in row)
    return {name: [row.get(name) for row in flat] for name in columns}
