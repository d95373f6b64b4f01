"""The data flow as a picture: services as boxes, what passes between them on arrows, for wide and for narrow screens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from complex_system.monitoring.page import series
from complex_system.monitoring.page.formatting import count, rate
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.svg import safe, svg, tag, text

_LONGEST_MODEL = 16
GOOD = ("ready", "working")
SOON = ("starting", "waiting")
SHAPES = {"good": "●", "soon": "◐", "bad": "▲", "gone": "○"}
"""A state's sign, which differs in form and not in colour alone."""


def kind_of(state: str) -> str:
    """``good``, ``soon``, ``bad`` or ``gone``."""
    if state in GOOD:
        return "good"
    if state in SOON:
        return "soon"
    return "gone" if state in ("", "stopped", "planned") else "bad"


class Node(NamedTuple):
    """A box: its name, the services behind it, where it stands on a wide and on a narrow screen."""

    key: str
    title: str
    services: tuple[str, ...]
    wide: tuple[float, float]
    narrow: tuple[float, float]


class Arrow(NamedTuple):
    """A line between boxes: points on a wide and a narrow screen, and where its words stand."""

    key: str
    wide: Sequence[tuple[float, float]]
    wide_text: tuple[float, float, str]
    narrow: Sequence[tuple[float, float]]
    narrow_text: tuple[float, float, str]


W, H = 150.0, 58.0
NODES = (
    Node("source", "Source", ("dummy_data_generation",), (8, 34), (100, 8)),
    Node("database", "Database", ("database_mongo", "database_maria"), (266, 34), (100, 118)),
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
"""``above`` is left-aligned and grows upwards, ``below`` is centred and grows downwards."""


def pictures(reading: Reading) -> tuple[str, str]:
    """The picture for a wide and for a narrow screen; CSS shows one of them."""
    words = _words(reading)
    states = {str(each["service"]): each for each in reading.services}
    label = "Data flow: " + "; ".join(f"{key} {first} {second}".strip() for key, (first, second) in words.items() if first)
    return (
        svg(1120, 256, _content(words, states, narrow=False), label, "flow wide"),
        svg(350, 580, _content(words, states, narrow=True), label, "flow narrow"),
    )


def _words(reading: Reading) -> dict[str, tuple[str, str]]:
    """What stands on an arrow, in two lines."""
    records, rates = reading.records, reading.rates
    asked = series.predictions_per_second(reading)
    joined = series.truths_per_second(reading)
    answered = sum(sums.predictions for rollup in reading.rollups for by, sums in rollup.latency.items() if not by.shadow)
    pairs = sum(sums.n for rollup in reading.rollups for key, sums in rollup.errors.items() if not key.group)
    champion = reading.champion
    # Models are called after the data set, whose name stands at the top of the page and has no room between two boxes.
    model = str(champion.get("model")).removeprefix(f"{reading.facts.dataset.name}-") if champion else ""
    model = model if len(model) <= _LONGEST_MODEL else f"{model[: _LONGEST_MODEL - 1]}…"
    crowned = f"{model} v{champion.get('version')}" if champion else "no champion yet"
    waiting = records.get("raw", 0) - records.get("processed", 0) - records.get("rejected", 0)
    known = bool(records)
    trained = len({(row.get("model"), row.get("version")) for row in (reading.comparison or {}).get("results", ())})
    return {
        "saved": (count(records.get("raw")) + " records" if known else "", rate(rates["raw"]) if "raw" in rates else ""),
        "raw": (f"{count(max(0, waiting))} to do" if known else "", ""),
        "processed": (
            f"{count(records.get('processed'))} done" if known else "",
            rate(rates["processed"]) if "processed" in rates else "",
        ),
        "labelled": (f"{count(records.get('labelled'))} labelled" if known else "", ""),
        "models": (crowned, f"of {trained} compared" if trained else ""),
        "rounds": ("training rounds", ""),
        "asked": ("requests", ""),
        "predictions": (f"{count(answered)} predictions in {reading.period.label}", f"{rate(asked)} now"),
        "truths": (f"{count(pairs)} joined with their truth", f"{rate(joined)} now"),
    }


def _content(words: Mapping[str, tuple[str, str]], states: Mapping[str, Mapping[str, Any]], *, narrow: bool) -> str:
    name = "arrow-narrow" if narrow else "arrow-wide"
    head = tag("path", d="M0,0 L7,3.5 L0,7 z", class_="head")
    parts = tag("defs", tag("marker", head, id=name, markerWidth=7, markerHeight=7, refX=6.5, refY=3.5, orient="auto"))
    for arrow in ARROWS:
        points = arrow.narrow if narrow else arrow.wide
        path = "M" + " L".join(f"{x:g},{y:g}" for x, y in points)
        moving = " moving" if words[arrow.key][1] not in ("", "0/s", "0/s now") else ""
        parts += tag("path", d=path, class_=f"arrow{moving}", marker_end=f"url(#{name})")
    for arrow in ARROWS:
        x, y, place = arrow.narrow_text if narrow else arrow.wide_text
        lines = [line for line in words[arrow.key] if line]
        if narrow and lines and " in " in lines[0]:
            lines = [*lines[0].partition(" in ")[0].split(" ", 1), *lines[1:]]
        if narrow and lines and " joined" in lines[0]:
            lines = [lines[0].partition(" ")[0], "joined", *lines[1:]]
        top = y - 15 * (len(lines) - 1) if place in ("middle", "above") else y
        anchor = {"above": "start", "below": "middle"}.get(place, place)
        for i, line in enumerate(lines if place else ()):
            quiet = i == len(lines) - 1 and words[arrow.key][1] != ""
            parts += text(x, top + 15 * i, line, text_anchor=anchor, class_="amount quiet" if quiet else "amount")
    for node in NODES:
        parts += _box(node, states, *(node.narrow if narrow else node.wide))
    return parts


def _box(node: Node, states: Mapping[str, Mapping[str, Any]], x: float, y: float) -> str:
    found = [states[name] for name in node.services if name in states]
    replicas = sum(int(each.get("running", 0)) for each in found)
    kinds = [kind_of(str(each.get("state", ""))) for each in found]
    worst = next((kind for kind in ("bad", "soon", "good") if kind in kinds), "gone")
    if not found:
        line = "not seen"
    elif len(node.services) > 2:
        line = f"{sum(kind == 'good' for kind in kinds)} of {len(found)} ready"
    else:
        state = next(str(e.get("state")) for e, kind in zip(found, kinds, strict=True) if kind == worst) if kinds else ""
        line = state + (f" · {replicas} replicas" if replicas > 1 else "")
    tip = (
        "; ".join(f"{each['service']}: {each.get('state')}, {each.get('running', 0)} running" for each in found)
        or "not seen"
    )
    content = tag("title", safe(tip))
    content += tag("rect", x=x, y=y, width=W, height=H, rx=9, class_="box")
    content += text(x + 14, y + 25, node.title, class_="title")
    content += text(x + 14, y + 44, SHAPES[worst], class_=f"sign {worst}")
    content += text(x + 29, y + 44, line, class_="state")
    return tag("g", content, class_=f"node {worst}", data_node=node.key)
