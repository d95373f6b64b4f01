"""What MLflow keeps of a comparison: a parent run with the message, a table and a chart, and a nested run for each model."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from complex_system.domain.dataset import Dataset
from complex_system.errors import TrackingRefusedError
from complex_system.evaluation.chart import rmse_chart
from complex_system.evaluation.comparison import ComparisonRequest
from complex_system.evaluation.effects_chart import effects_chart
from complex_system.evaluation.results import Comparison
from complex_system.protocol.base import to_wire
from complex_system.protocol.explanation import ModelExplanation
from complex_system.protocol.scores import Challenge
from complex_system.protocol.training import ComparisonFinished, Quality
from complex_system.tracking.connection import experiment_id, literal, load_mlflow, open_client, run_url, translated

log = logging.getLogger(__name__)

TABLE = "comparison.json"
CHART = "comparison.png"
MESSAGE = "announced.json"
EXPLANATION = "explanation.json"
EXPLANATION_CHART = "explanation.png"
_FIGURES = ("rmse", "mae", "r2", "rmse_low", "rmse_high")
_MAX_ALERTS = 10
"""Keys of alerts that are kept of a round."""
_KIND, _ORIGIN, _DATASET, _VERSION, _CHANGED = "kind", "origin", "dataset", "pipeline_version", "champion_changed"
_ROUND = "round"


class LastRounds(NamedTuple):
    """The complete rounds of a pipeline version.

    Attributes:
        labelled: Labelled records at the last round; None where there was none.
        corrected: Corrections of labelled records until then; None where they were not counted.
        since: The time after which the records of the last round with a new champion began; None where it had all.
        after: The same as a key, where that round is of a release that went by keys.
    """

    labelled: int | None = None
    corrected: int | None = None
    since: float | None = None
    after: str | None = None


class ComparisonLog:
    """Comparisons of one data set in one MLflow experiment. Blocking; runs in a thread.

    Every method raises ``TrackingUnavailableError`` when MLflow does not answer.
    """

    def __init__(self, tracking_uri: str, experiment: str, dataset: Dataset, best_possible: float | None = None) -> None:
        """Prepare the log; nothing is sent yet.

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

    def recall(self, chosen_in: str = "") -> LastRounds:
        """Return what a new round must know of the complete rounds of this pipeline version.

        Args:
            chosen_in: The round that chose the present champion; empty or unknown for the last one with a new champion.
        """
        client = open_client(self._uri)
        with translated(self._uri, "looking for the last round"):
            last = self._newest(client, {_ORIGIN: "round"})
            changed = self._newest(client, {_ROUND: chosen_in}) if chosen_in else None
            changed = changed or self._newest(client, {_ORIGIN: "round", _CHANGED: "True"})
        params = last.data.params if last else {}
        labelled, corrected = (int(params[name]) if params.get(name) else None for name in ("labelled", "corrected"))
        began = changed.data.params if changed else {}
        return LastRounds(labelled, corrected, float(began["since"]) if "since" in began else None, began.get("after"))

    def last(self) -> ComparisonFinished | None:
        """Return the newest complete comparison of this pipeline version; None if there is none that can be read."""
        client = open_client(self._uri)
        with translated(self._uri, "reading the last comparison"), tempfile.TemporaryDirectory() as folder:
            run = self._newest(client, {})
            if run is None:
                return None
            names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
            name = MESSAGE if MESSAGE in names else TABLE
            content = Path(client.download_artifacts(run.info.run_id, name, folder)).read_bytes()
        try:
            found = read_message(content) if name == MESSAGE else read_table(content, run.data.params)
        except (msgspec.MsgspecError, ValueError, KeyError, StopIteration) as error:
            log.warning("The comparison in run %s cannot be read: %r", run.info.run_id, error)
            return None
        return msgspec.structs.replace(found, run_url=run_url(self._uri, run.info.experiment_id, run.info.run_id))

    def is_finished(self, round_id: str) -> bool:
        """Whether the comparison of a round, for any pipeline version, was carried out to the end."""
        client = open_client(self._uri)
        with translated(self._uri, "looking for a comparison"):
            return self._newest_run(client, {_ROUND: round_id}) is not None

    def _newest(self, client: Any, tags: dict[str, str]) -> Any:
        """Return the newest finished comparison of this pipeline version with these tags; one that was cut off has no champion."""
        return self._newest_run(client, {_VERSION: self._dataset.version, **tags})

    def _newest_run(self, client: Any, tags: dict[str, str], *, finished: bool = True) -> Any:
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return None
        wanted = {_KIND: "comparison", _DATASET: self._dataset.name, **tags}
        conditions = ["attributes.status = 'FINISHED'"] if finished else []
        conditions += [f"tags.{name} = {literal(value)}" for name, value in wanted.items()]
        runs = client.search_runs(
            [experiment.experiment_id], " and ".join(conditions), max_results=1, order_by=["attributes.start_time DESC"]
        )
        return runs[0] if runs else None

    def _start_time(self, client: Any) -> int:
        """Return when a new comparison begins, in milliseconds: after the one before, whatever the clock of its host said."""
        before = self._newest_run(client, {}, finished=False)
        return max(int(time.time() * 1000), before.info.start_time + 1 if before is not None else 0)

    def log(self, comparison: Comparison, request: ComparisonRequest) -> str:
        """Log a comparison. It counts only after :meth:`finish`.

        Args:
            comparison: The result.
            request: What was asked for. With the same request, another try goes on with the same runs.

        Returns:
            Address of the parent run in MLflow's pages.
        """
        client = open_client(self._uri)
        with translated(self._uri, "logging the comparison"):
            experiment = experiment_id(client, self._experiment)
            runs = _Runs(client, experiment, request.runs)
            alerts = request.alert.alerts[:_MAX_ALERTS] if request.alert else ()
            parent = runs.of(_parent_name(request), {
                _KIND: "comparison", _ORIGIN: "schedule" if request.labelled is None else "round", _DATASET: self._dataset.name,
                _VERSION: self._dataset.version, _ROUND: comparison.round, _CHANGED: str(comparison.is_change),
                "ranked_by": comparison.ranked_by,
                **{f"against_{name}": verdict.verdict for name, verdict in comparison.verdicts.items()},
                "intervals": comparison.intervals,
                **({"verdict": comparison.evidence} if comparison.evidence else {}),
            }, self._start_time(client))  # fmt: skip
            runs.write(parent, self._parent_metrics(comparison), {
                "round": comparison.round, "holdout": comparison.holdout,
                "labelled": request.labelled,
                "corrected": None if request.labelled is None else request.corrected,
                "cause": request.cause,
                "since": request.since, "after": request.after,
                "alerts": " ".join(alerts) or None,
                "kept": comparison.kept or None,
                "split": comparison.split or None, "question": comparison.question or None,
                "champion": comparison.champion.label,
                "candidate": comparison.candidate.label if comparison.candidate else None,
                "champion_framework": comparison.champion.ref.framework,
                "champion_changed": comparison.is_change,
                "not_better_than": ", ".join(comparison.unbeaten) or None,
                "refused": "; ".join(comparison.refused.values())[:500] or None,
            })  # fmt: skip
            client.log_dict(parent, to_wire(comparison.message(request)), MESSAGE)
            client.log_figure(parent, rmse_chart(comparison, self._best_possible, self._unit), CHART)
            if comparison.explanation is not None:
                self._log_explanation(client, comparison.explanation, parent, comparison.winner.ref.run_id)
            if TABLE not in {artifact.path for artifact in client.list_artifacts(parent)}:  # log_table would append
                client.log_table(parent, _table(comparison), TABLE)
            for result in comparison.results:
                ref, challenge = result.ref, comparison.challenges.get(result.label)
                run = runs.of(f"{ref.model}-v{ref.version}", {_KIND: "comparison-model", "mlflow.parentRunId": parent})
                runs.write(run, {**_figures(result.quality, "holdout_"), **_against(challenge)}, {
                    "model": ref.model, "version": ref.version, "framework": ref.framework, "trainer": ref.trainer,
                    "training_run": ref.run_id, "incumbent": result.incumbent,
                    "challenge": challenge.outcome if challenge else None, "decided_by": challenge.by if challenge else None,
                })  # fmt: skip
                client.set_terminated(run)
        return run_url(self._uri, experiment, parent)

    def _log_explanation(self, client: Any, explanation: ModelExplanation, parent: str, training: str) -> None:
        """Log an explanation with the comparison, and with the training of its model, which may have been deleted."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, EXPLANATION).write_bytes(msgspec.json.encode(explanation))
            effects_chart(explanation, self._unit).savefig(Path(folder, EXPLANATION_CHART))
            client.log_artifacts(parent, folder)
            try:
                with translated(self._uri, "logging an explanation"):
                    client.log_artifacts(training, folder)
            except TrackingRefusedError as error:
                log.warning("The explanation is not kept with the training: %s", error.message)

    def finish(self, request: ComparisonRequest) -> None:
        """End the run of a logged comparison after everything that follows from it; a restart before that repeats the round."""
        client = open_client(self._uri)
        with translated(self._uri, "ending the comparison"):
            client.set_terminated(request.runs[_parent_name(request)])

    def _parent_metrics(self, comparison: Comparison) -> dict[str, float]:
        metrics = _figures(comparison.champion.quality, "holdout_")
        if self._best_possible is not None:
            metrics["best_possible_rmse"] = self._best_possible
        for name, baseline in comparison.baselines.items():
            metrics[f"baseline_{name}_rmse"] = baseline.quality.rmse
            if baseline.quality.cv is not None:
                metrics[f"baseline_{name}_cv_rmse"] = baseline.quality.cv.rmse
        for result in comparison.results:
            trainer = result.ref.trainer or result.ref.model
            metrics[f"rmse/{trainer}{'-until-now' if result.incumbent else ''}"] = result.quality.rmse
        return metrics


class _Runs:
    """The runs of one comparison; those that an earlier try made are in ``known``."""

    def __init__(self, client: Any, experiment: str, known: dict[str, str]) -> None:
        self._client = client
        self._experiment = experiment
        self._known = known

    def of(self, name: str, tags: dict[str, str], start_time: int | None = None) -> str:
        """Return the id of the run of that name."""
        if name not in self._known:
            run = self._client.create_run(self._experiment, start_time=start_time, tags=tags, run_name=name)
            self._known[name] = run.info.run_id
        return self._known[name]

    def write(self, run: str, metrics: dict[str, float], params: dict[str, str | int | float | None]) -> None:
        """Log metrics and those parameters that have a value."""
        entities = load_mlflow().entities
        now = int(time.time() * 1000)
        self._client.log_batch(
            run,
            [entities.Metric(name, value, now, 0) for name, value in metrics.items()],
            [entities.Param(name, str(value)) for name, value in params.items() if value is not None],
        )


def read_message(content: bytes) -> ComparisonFinished:
    """Read a comparison as :meth:`ComparisonLog.log` keeps it, in this release or an earlier one."""
    return msgspec.convert(json.loads(content), ComparisonFinished)


def read_table(content: bytes, params: dict[str, str]) -> ComparisonFinished:
    """Read a comparison of the first releases, which kept the table and the parameters of the run only."""
    table = json.loads(content)
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    found = {
        "round": params.get("round", ""),
        "results": rows,
        "champion": next(row for row in rows if row["champion"]),
        "holdout": int(params.get("holdout", 0)),
        "kept": params.get("kept", ""),
        "cause": params.get("cause") or "growth",
        "alerts": params.get("alerts", "").split(),
    }
    return msgspec.convert(found, ComparisonFinished)


def _parent_name(request: ComparisonRequest) -> str:
    return f"comparison-{request.round}"


def _figures(quality: Quality, prefix: str = "") -> dict[str, float]:
    """Return the figures by name: ``prefix`` for those of the hold-out part, ``cv_`` for those of the folds."""
    found = {f"{prefix}{name}": getattr(quality, name) for name in _FIGURES}
    found |= {f"cv_{name}": getattr(quality.cv, name, None) for name in _FIGURES}
    return {name: value for name, value in found.items() if value is not None}


def _against(challenge: Challenge | None) -> dict[str, float]:
    """Return how a model did beside the previous champion: by how much it is better, and how sure that is."""
    if challenge is None:
        return {}
    names = ("better_by", "low", "high", "p", "limit")
    return {"better_by" if name == "better_by" else f"better_by_{name}": getattr(challenge, name) for name in names}


def _table(comparison: Comparison) -> dict[str, list[Any]]:
    """Return the columns of the table: the models, best first, then the baselines, which have no version."""
    rows: list[dict[str, str | float | bool]] = []
    for result in comparison.results:
        ref = result.ref
        about = {"trainer": ref.trainer, "framework": ref.framework, "model": ref.model, "version": ref.version}
        rows.append({**about, **_figures(result.quality), "champion": result is comparison.champion})
    for name, baseline in comparison.baselines.items():
        about = {"trainer": "", "framework": "baseline", "model": name, "version": ""}
        rows.append({**about, **_figures(baseline.quality), "champion": False})
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
