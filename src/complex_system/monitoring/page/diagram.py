"""The data flow as a diagram: services as boxes, what passes between them on arrows, for wide and for narrow screens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from complex_system.monitoring import series
from complex_system.monitoring.page.formatting import Level, count, level_of, rate
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.svg import safe, svg, tag, text
from complex_system.monitoring.services import ServiceState

_LONGEST_MODEL = 16
STATE_SIGNS: dict[Level, str] = {"good": "●", "warn": "◐", "bad": "▲", "none": "○"}
"""Signs of a service's state, which differ in shape as well as in colour."""
_WORST_FIRST: tuple[Level, ...] = ("bad", "warn", "good", "none")


class Node(NamedTuple):
    """A box: its name, the services behind it, and its corner on a wide and on a narrow screen.

    A name that ends with ``_`` is the beginning of names.
    """

    key: str
    title: str
    services: tuple[str, ...]
    wide: tuple[float, float]
    narrow: tuple[float, float]


class Arrow(NamedTuple):
    """A line between boxes: its points on a wide and on a narrow screen, and the place and alignment of its text.

    Text that is aligned ``above`` begins at its place and grows upwards; ``below`` is centred and grows downwards.
    """

    key: str
    wide: Sequence[tuple[float, float]]
    wide_text: tuple[float, float, str]
    narrow: Sequence[tuple[float, float]]
    narrow_text: tuple[float, float, str]


class Label(NamedTuple):
    """The text on an arrow: a line, a shorter one for narrow screens, and a quiet line below, which is a rate or a remark."""

    line: str = ""
    narrow: tuple[str, ...] = ()
    quiet: str = ""


W, H = 150.0, 58.0
NODES = (
    Node("source", "Source", ("dummy_data_generation",), (8, 34), (100, 8)),
    Node("database", "Database", ("database_",), (266, 34), (100, 118)),
    Node("processing", "Processing", ("data_processing",), (266, 176), (8, 240)),
    Node("trainers", "Trainers", (
        "ml_lightgbm_regression_mlflow", "ml_pytorch_regression_mlflow", "ml_pytorch_regression",
        "ml_tensorflow_regression_mlflow",
    ), (532, 34), (192, 240)),
    Node("serving", "Serving", ("ml_serving_mlflow", "ml_serving"), (798, 34), (192, 372)),
    Node("consumer", "Consumer", ("ml_consumer",), (532, 176), (8, 372)),
    Node("monitoring", "Monitoring", ("ml_monitoring",), (962, 176), (100, 512)),
)  # fmt: skip
ARROWS = (
    Arrow("saved", ((158, 63), (266, 63)), (212, 55, "middle"), ((175, 66), (175, 118)), (184, 88, "start")),
    Arrow("raw", ((310, 92), (310, 176)), (302, 138, "end"), ((125, 176), (125, 208), (60, 208), (60, 240)), (52, 222, "end")),
    Arrow("processed", ((372, 176), (372, 92)), (380, 130, "start"), ((100, 240), (100, 224), (145, 224), (145, 176)), (0, 0, "")),
    Arrow("labelled", ((416, 63), (532, 63)), (474, 55, "middle"), ((225, 176), (225, 240)), (234, 212, "start")),
    Arrow("models", ((682, 63), (798, 63)), (740, 55, "middle"), ((245, 298), (245, 372)), (254, 330, "start")),
    Arrow("rounds", ((607, 176), (607, 92)), (615, 138, "start"), ((60, 372), (60, 350), (215, 350), (215, 298)), (68, 343, "start")),
    Arrow("asked", ((682, 195), (836, 195), (836, 92)), (759, 187, "middle"), ((158, 401), (192, 401)), (0, 0, "")),
    Arrow("predictions", ((910, 92), (910, 148), (1037, 148), (1037, 176)), (918, 140, "above"),
          ((275, 430), (275, 470), (205, 470), (205, 512)), (284, 452, "start")),
    Arrow("truths", ((682, 217), (962, 217)), (822, 234, "below"), ((83, 430), (83, 470), (145, 470), (145, 512)), (74, 452, "end")),
)  # fmt: skip


def diagrams(reading: Reading) -> tuple[str, str]:
    """Return the diagram for wide and for narrow screens; CSS shows one of them."""
    labels = _labels(reading)
    services = {each.service: each for each in reading.overview.services}
    description = "Data flow: " + "; ".join(
        f"{key} {each.line} {each.quiet}".strip() for key, each in labels.items() if each.line
    )
    return (
        svg(1120, 256, _content(labels, services, narrow=False), description, "flow wide"),
        svg(350, 580, _content(labels, services, narrow=True), description, "flow narrow"),
    )


def _labels(reading: Reading) -> dict[str, Label]:
    predictions, truths = series.predictions(reading.rollups), series.truths(reading.rollups)
    labels = {
        "models": _champion(reading),
        "rounds": Label("training rounds"),
        "asked": Label(_own(reading)),
        "predictions": Label(
            f"{count(predictions)} predictions in {reading.period.label}", (count(predictions), "predictions"),
            f"{rate(reading.per_second(series.predictions))} now, {count(series.predictions(reading.rollups, 'live'))} live",
        ),
        "truths": Label(
            f"{count(truths)} compared with true values", (count(truths), "compared"),
            f"{rate(reading.per_second(series.truths))} now",
        ),
    }  # fmt: skip
    records = reading.overview.records
    if records:
        rates = {name: rate(value) for name, value in reading.overview.rates.items()}
        unprocessed = records.get("raw", 0) - records.get("processed", 0) - records.get("rejected", 0)
        labels["saved"] = Label(f"{count(records.get('raw'))} records", quiet=rates.get("raw", ""))
        # Where old raw records were deleted, there are fewer than results, and how many of them wait is not known.
        labels["raw"] = Label(f"{count(unprocessed)} to do" if unprocessed >= 0 else "")
        labels["processed"] = Label(f"{count(records.get('processed'))} done", quiet=rates.get("processed", ""))
        labels["labelled"] = Label(f"{count(records.get('labelled'))} labelled")
    return labels


def _own(reading: Reading) -> str:
    """Return what the consumer asks for: probes where records are simulated."""
    return "probes" if series.predictions(reading.rollups, "probe") else "own requests"


def _champion(reading: Reading) -> Label:
    if reading.champion is None:
        return Label("no champion yet")
    # Models are named after the data set, whose name is at the top of the page and too long for the space between two boxes.
    model = reading.champion.model.removeprefix(f"{reading.facts.dataset.name}-")
    model = model if len(model) <= _LONGEST_MODEL else f"{model[: _LONGEST_MODEL - 1]}…"
    compared = len(reading.comparison.results) if reading.comparison else 0
    return Label(f"{model} v{reading.champion.version}", quiet=f"of {compared} compared" if compared else "")


def _content(labels: Mapping[str, Label], services: Mapping[str, ServiceState], *, narrow: bool) -> str:
    name = "arrow-narrow" if narrow else "arrow-wide"
    head = tag("path", d="M0,0 L7,3.5 L0,7 z", class_="head")
    parts = tag("defs", tag("marker", head, id=name, markerWidth=7, markerHeight=7, refX=6.5, refY=3.5, orient="auto"))
    texts = ""
    for arrow in ARROWS:
        label = labels.get(arrow.key, Label())
        path = "M" + " L".join(f"{x:g},{y:g}" for x, y in (arrow.narrow if narrow else arrow.wide))
        moving = " moving" if label.quiet and not label.quiet.startswith("0/s") else ""
        parts += tag("path", d=path, class_=f"arrow{moving}", marker_end=f"url(#{name})")
        x, y, place = arrow.narrow_text if narrow else arrow.wide_text
        lines = [*((narrow and label.narrow) or (label.line,)), label.quiet]
        shown = [line for line in lines if line] if place else []
        top = y - 15 * (len(shown) - 1) if place in ("middle", "above") else y
        anchor = {"above": "start", "below": "middle"}.get(place, place)
        for i, line in enumerate(shown):
            texts += text(
                x, top + 15 * i, line, text_anchor=anchor, class_="amount quiet" if line is label.quiet else "amount"
            )
    boxes = (_box(node, services, *(node.narrow if narrow else node.wide)) for node in NODES)
    return parts + texts + "".join(boxes)


def _box(node: Node, services: Mapping[str, ServiceState], x: float, y: float) -> str:
    beginnings = tuple(name for name in node.services if name.endswith("_"))
    found = [each for name, each in services.items() if name in node.services or name.startswith(beginnings)]
    levels = [level_of(each.state) for each in found]
    worst: Level = next((level for level in _WORST_FIRST if level in levels), "none")
    if not found:
        state = "not seen"
    elif len(node.services) > 2:
        state = f"{levels.count('good')} of {len(found)} ready"
    else:
        # Two services that serve are two models, and not replicas of one.
        running, several = [each for each in found if each.running], sum(each.running for each in found)
        more = f" · {several} replicas" if several > 1 else ""
        if len(running) > 1:
            more = f" · {len(running)} services"
        state = found[levels.index(worst)].state + more
    tip = "; ".join(f"{each.service}: {each.state}, {each.running} running" for each in found) or "not seen"
    content = tag("title", safe(tip))
    content += tag("rect", x=x, y=y, width=W, height=H, rx=9, class_="box")
    content += text(x + 14, y + 25, node.title, class_="title")
    content += text(x + 14, y + 44, STATE_SIGNS[worst], class_=f"sign {worst}")
    content += text(x + 29, y + 44, state, class_="state")
    return tag("g", content, class_=f"node {worst}", data_node=node.key)
