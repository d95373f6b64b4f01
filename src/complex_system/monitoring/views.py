"""The present state for the page and the REST interface, made from a :class:`Monitor`. Pure, quick functions.

The REST interface encodes the results as they are, so their fields are its keys. Times are seconds since 1970 (UTC), errors in the
target's unit, latencies in milliseconds. :mod:`series` has the past.
"""

from __future__ import annotations

import msgspec

from complex_system.domain.laboratory import BEST_POSSIBLE, has_known_function
from complex_system.monitoring.aggregates import Served
from complex_system.monitoring.change_points import Change
from complex_system.monitoring.drift import MIN_LIVE, Band, ColumnDrift, band_of
from complex_system.monitoring.error_watch import KeptComparison
from complex_system.monitoring.history import Champion
from complex_system.monitoring.monitor import CHAMPIONS_SERVICE, Monitor
from complex_system.monitoring.performance import ServedMetrics
from complex_system.monitoring.services import ServiceState
from complex_system.protocol.base import Message
from complex_system.protocol.operations import Alert, Alerts, MonitoringSnapshot, ServedModel, ServiceFigures
from complex_system.protocol.promotion import Promotion


class ServedView(Message, frozen=True, kw_only=True):
    """A served model over its moving window.

    Attributes:
        service: The service that answers with it; empty for a champion that has not answered yet.
        model: Registered name.
        version: Registered version.
        shadow: Whether it is a challenger, which answers nobody.
        origin: Whose requests ``performance`` is of, as ``protocol.serving.Origin``; empty where none is, or it was not recorded.
        label: For a legend.
        performance: ``rmse``, ``mae``, ``bias``, ``r2``, ``count`` and those of ``Coverage.judge``, as far as they are known.
        by_origin: The same of every origin.
        latency: ``latency_ms_mean``, ``_p50``, ``_p95``, ``_p99`` and ``predictions_per_second``, likewise.
        holdout_rmse: At its comparison; None where it was not compared.
    """

    service: str
    model: str
    version: str
    shadow: bool
    origin: str
    label: str
    performance: dict[str, float]
    by_origin: dict[str, dict[str, float]]
    latency: dict[str, float]
    holdout_rmse: float | None


class ChampionView(ServedView, frozen=True, kw_only=True):
    """The champion.

    Attributes:
        since: Since when it is the champion; None where that is not known.
    """

    since: float | None


class DriftView(Message, frozen=True, kw_only=True):
    """The strongest drift.

    Attributes:
        worst: Column or feature.
        psi: Its stability index.
        band: How strong that is.
        samples: Records in the live window then.
        needed: Records from which on drift is reported.
    """

    worst: str
    psi: float
    band: Band
    samples: int
    needed: int = MIN_LIVE


class Overview(Message, frozen=True, kw_only=True):
    """Does it run, is the model good, is the data as it was.

    Attributes:
        at: Time of the newest point; 0 before the first.
        services: By name.
        records: ``raw``, ``processed``, ``labelled``, ``rejected``; empty before the first count.
        rates: The same a second, and ``predictions``.
        champion: None before the first.
        drift: None before it can be told.
        alerts: The open ones, the newest first.
        changes: Of the error.
        history_loaded: Whether the history of earlier processes is there.
        awaited: Sentences that say what is still missing.
    """

    at: float
    services: list[ServiceState]
    records: dict[str, int]
    rates: dict[str, float]
    champion: ChampionView | None
    drift: DriftView | None
    alerts: list[Alert]
    changes: tuple[Change, ...]
    history_loaded: bool
    awaited: list[str]


class Described(Message, frozen=True, kw_only=True):
    """Name, unit and description of a column.

    Attributes:
        name: Its name.
        unit: Its unit; empty where none is declared.
        description: What it is, for people; empty where nothing is declared.
    """

    name: str
    unit: str
    description: str


class Models(Message, frozen=True, kw_only=True):
    """The last comparison, the champions, and how the served models and the challengers do.

    Attributes:
        comparison: None before the first.
        best_possible: RMSE that no model can beat; None where it is not known.
        target: What is predicted.
        champions: The newest first.
        served: The models that answer.
        shadows: Challengers.
        promotion: Champion, candidate, pin and people's decisions; None until they are known.
    """

    comparison: KeptComparison | None
    best_possible: float | None
    target: Described
    champions: list[Champion]
    served: list[ServedView]
    shadows: list[ServedView]
    promotion: Promotion | None


class ColumnView(ColumnDrift, frozen=True, kw_only=True, omit_defaults=True):
    """A column or a feature beside the reference, with its declaration.

    Attributes:
        name: Its name.
        unit: Unit of a column; empty for a feature.
        description: Description of a column; empty for a feature.
    """

    name: str
    unit: str
    description: str


class ReferenceView(Message, frozen=True, kw_only=True):
    """The reference.

    Attributes:
        source: Where it comes from: ``champion`` or ``database``.
        samples: Its number of records.
    """

    source: str
    samples: int


class Data(Message, frozen=True, kw_only=True):
    """Live data beside the reference.

    Attributes:
        at: When it was measured.
        samples: Records in the live window.
        origins: Records in the live window by now, by who asked.
        needed: Records from which on drift is reported.
        reference: None before it is there.
        raw: The raw columns, the strongest drift first.
        processed: The features, likewise.
        rejected: Over the last five minutes ``count`` of new raw records, ``share`` of the rejected ones, rejections by reason.
        new_categories: By column, of rejected records.
        outside: Values outside of their range that were taken in the last five minutes, by column; of processed records.
        ingest: ``waiting``, ``in_flight``, ``dead``, ``stopped_sources`` and ``conflicts``.
        independent: As in :class:`DataDrift`.
        unjudged: Likewise.
    """

    at: float
    samples: int
    origins: dict[str, int]
    needed: int
    reference: ReferenceView | None
    raw: list[ColumnView]
    processed: list[ColumnView]
    rejected: dict[str, float]
    new_categories: dict[str, float]
    outside: dict[str, float]
    ingest: dict[str, float]
    independent: bool = False
    unjudged: dict[str, float] = msgspec.field(default_factory=dict)


def overview(monitor: Monitor) -> Overview:
    """Return what the first page shows."""
    champion, drift = _champion(monitor), _drift(monitor)
    predictions = sum(each.latency.get("predictions_per_second", 0.0) for each in monitor.served.values())
    return Overview(
        at=monitor.at,
        services=monitor.services.services(),
        records=monitor.flow.counts,
        rates={**monitor.flow.rates(), "predictions": predictions},
        champion=champion,
        drift=drift,
        alerts=[alert for alert in monitor.history.alerts() if alert.ended is None],
        changes=monitor.changes,
        history_loaded=monitor.history.loaded,
        awaited=_awaited(monitor, champion, drift),
    )


def models(monitor: Monitor) -> Models:
    """Return comparison, champions, served models and challengers."""
    return Models(
        comparison=monitor.comparison,
        best_possible=BEST_POSSIBLE.rmse if has_known_function(monitor.dataset) else None,
        target=target_of(monitor),
        champions=monitor.history.champions[::-1],
        served=[_served(monitor, each) for each in monitor.served.values()],
        shadows=[_served(monitor, each) for each in monitor.shadows],
        promotion=monitor.promotion,
    )


def data(monitor: Monitor) -> Data:
    """Return live data beside the reference."""
    reference, drift = monitor.reference, monitor.drift
    return Data(
        at=drift.at,
        samples=drift.samples,
        origins=monitor.origins,
        needed=MIN_LIVE,
        reference=ReferenceView(source=reference.source, samples=reference.samples) if reference else None,
        raw=_columns(monitor, drift.raw),
        processed=_columns(monitor, drift.processed),
        rejected=monitor.figures.of_group("rejected"),
        new_categories={name: n for name, n in monitor.figures.by_subject("data/new_categories").items() if n},
        outside=monitor.figures.by_subject("data/outside"),
        ingest=monitor.figures.of_group("ingest"),
        independent=drift.independent,
        unjudged=drift.unjudged,
    )


def alerts(monitor: Monitor) -> Alerts:
    """Return open and past alerts, the newest first."""
    every = monitor.history.alerts()
    return Alerts(
        open=tuple(alert for alert in every if alert.ended is None),
        past=tuple(alert for alert in every if alert.ended is not None),
    )


def snapshot(monitor: Monitor) -> MonitoringSnapshot:
    """Return the newest values."""
    services = {service: _figures(each) for service, each in monitor.served.items()}
    champion = services.get(CHAMPIONS_SERVICE, ServiceFigures(performance={"count": 0.0}))
    return MonitoringSnapshot(
        **msgspec.structs.asdict(champion),
        at=monitor.at,
        system=monitor.figures.of_group("system"),
        services=services,
        drift=monitor.figures.by_subject("drift/psi"),
        samples=len(monitor.records),
        reference_samples=monitor.reference.samples if monitor.reference else 0,
        metrics=monitor.figures.flat(),
    )


def target_of(monitor: Monitor) -> Described:
    """Return what the target is called and measured in."""
    column = monitor.dataset.column(monitor.dataset.target)
    return Described(name=column.name, unit=column.unit, description=column.description)


def _figures(each: ServedMetrics) -> ServiceFigures:
    model = ServedModel(model=each.served.model, version=each.served.version)
    return ServiceFigures(model=model, performance=each.performance, origin=each.served.origin, latency=each.latency)


def _served(monitor: Monitor, each: ServedMetrics) -> ServedView:
    return ServedView(
        **each.served._asdict(),
        label=each.served.label,
        performance=each.performance,
        by_origin=each.by_origin,
        latency=each.latency,
        holdout_rmse=monitor.baseline(each.served),
    )


def _champion(monitor: Monitor) -> ChampionView | None:
    crowned = monitor.history.champions[-1] if monitor.history.champions else None
    metrics = monitor.served.get(CHAMPIONS_SERVICE)
    if metrics is not None:
        view = _served(monitor, metrics)
    elif crowned is not None:
        view = _served(monitor, ServedMetrics(Served("", crowned.model, crowned.version), {"count": 0.0}, {}))
    else:
        return None
    since, rmse = None, view.holdout_rmse
    if crowned is not None and (crowned.model, crowned.version) == (view.model, view.version):
        since, rmse = crowned.at, rmse or crowned.rmse
    return ChampionView(**{**msgspec.structs.asdict(view), "since": since, "holdout_rmse": rmse})


def _drift(monitor: Monitor) -> DriftView | None:
    measured = {**monitor.drift.raw, **monitor.drift.processed}.items()
    indices = {name: each.psi for name, each in measured if each.psi is not None}
    if not indices:
        return None
    psi, worst = max((psi, name) for name, psi in indices.items())
    return DriftView(worst=worst, psi=psi, band=band_of(psi), samples=monitor.drift.samples)


def _awaited(monitor: Monitor, champion: ChampionView | None, drift: DriftView | None) -> list[str]:
    there, reference = len(monitor.records), monitor.reference
    missing = f"{there} of {MIN_LIVE} predicted records are there" if there < MIN_LIVE else "it is being measured"
    awaits = {
        "The history waits for the database service.": not monitor.history.loaded,
        "The record counts wait for the database service.": not monitor.flow.counts,
        "No champion yet: it comes with the first training round.": champion is None,
        "No error yet: the truth of the champion's predictions is not known.": champion
        and not champion.performance.get("count"),
        "No drift yet: its reference comes with the first champion or enough labels.": drift is None and reference is None,
        f"No drift yet: {missing}.": drift is None and reference is not None and not monitor.drift.has_moved,
    }
    return [text for text, is_awaited in awaits.items() if is_awaited]


def _columns(monitor: Monitor, measured: dict[str, ColumnDrift]) -> list[ColumnView]:
    declared = {column.name: column for column in monitor.dataset.columns}
    columns = []
    for name, each in measured.items():
        column = declared.get(name)
        unit, description = (column.unit, column.description) if column else ("", "")
        columns.append(ColumnView(**msgspec.structs.asdict(each), name=name, unit=unit, description=description))
    return sorted(columns, key=lambda each: -1.0 if each.psi is None else each.psi, reverse=True)
