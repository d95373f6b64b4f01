"""The data flow as a picture: services as boxes, what passes between them on arrows, for wide and for narrow screens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from complex_system.monitoring.page import series
from complex_system.monitoring.page.drawing import safe, svg, tag, text
from complex_system.monitoring.page.reading import Reading
from complex_system.monitoring.page.wording import count, rate

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
    Node("source", "Source", ("dummy_data_generation",), (8, 46), (100, 8)),
    Node("database", "Database", ("database_mongo", "database_maria"), (262, 46), (100, 128)),
    Node("processing", "Processing", ("data_processing",), (262, 204), (8, 250)),
    Node("trainers", "Trainers", (
        "ml_lightgbm_regression_mlflow", "ml_pytorch_regression_mlflow", "ml_pytorch_regression",
        "ml_tensorflow_regression_mlflow",
    ), (516, 46), (192, 250)),
    Node("serving", "Serving", ("ml_serving_mlflow", "ml_serving"), (770, 46), (192, 372)),
    Node("consumer", "Consumer", ("ml_consumer",), (516, 204), (8, 372)),
    Node("monitoring", "Monitoring", ("ml_monitoring",), (962, 204), (100, 494)),
)  # fmt: skip
ARROWS = (
    Arrow("saved", ((158, 75), (262, 75)), (210, 62, "middle"), ((175, 66), (175, 128)), (183, 92, "start")),
    Arrow("raw", ((305, 104), (305, 204)), (297, 150, "end"), ((125, 186), (125, 218), (60, 218), (60, 250)), (54, 212, "end")),
    Arrow("processed", ((369, 204), (369, 104)), (377, 150, "start"), ((108, 250), (108, 234), (145, 234), (145, 186)), (0, 0, "")),
    Arrow("labelled", ((412, 75), (516, 75)), (464, 62, "middle"), ((225, 186), (225, 250)), (233, 222, "start")),
    Arrow("models", ((666, 75), (770, 75)), (718, 62, "middle"), ((267, 308), (267, 372)), (259, 344, "end")),
    Arrow("rounds", ((591, 204), (591, 104)), (599, 150, "start"), ((83, 372), (83, 340), (210, 340), (210, 308)), (76, 362, "end")),
    Arrow("asked", ((666, 225), (808, 225), (808, 104)), (737, 215, "middle"), ((158, 394), (192, 394)), (0, 0, "")),
    Arrow("predictions", ((882, 104), (882, 150), (1037, 150), (1037, 204)), (960, 141, "middle"),
          ((267, 430), (267, 462), (200, 462), (200, 494)), (274, 456, "start")),
    Arrow("truths", ((666, 247), (962, 247)), (814, 264, "middle"), ((83, 430), (83, 462), (150, 462), (150, 494)), (76, 456, "end")),
)  # fmt: skip


def pictures(reading: Reading) -> tuple[str, str]:
    """The picture for a wide and for a narrow screen; CSS shows one of them."""
    words = _words(reading)
    states = {str(each["service"]): each for each in reading.services}
    label = "Data flow: " + "; ".join(f"{key} {first} {second}".strip() for key, (first, second) in words.items() if first)
    return (
        svg(1120, 290, _content(words, states, narrow=False), label, "flow wide"),
        svg(350, 562, _content(words, states, narrow=True), label, "flow narrow"),
    )


def _words(reading: Reading) -> dict[str, tuple[str, str]]:
    """What stands on an arrow, in two lines."""
    records, rates = reading.records, reading.rates
    asked = series.predictions_per_second(reading)
    joined = series.truths_per_second(reading)
    answered = sum(sums.predictions for rollup in reading.rollups for by, sums in rollup.latency.items() if not by.shadow)
    pairs = sum(sums.n for rollup in reading.rollups for key, sums in rollup.errors.items() if not key.group)
    champion = reading.champion
    crowned = f"{champion.get('model')} v{champion.get('version')}" if champion else "no champion yet"
    waiting = records.get("raw", 0) - records.get("processed", 0) - records.get("rejected", 0)
    known = bool(records)
    trained = len({(row.get("model"), row.get("version")) for row in (reading.comparison or {}).get("results", ())})
    return {
        "saved": (count(records.get("raw")) + " records" if known else "", rate(rates["raw"]) if "raw" in rates else ""),
        "raw": (f"{count(max(0, waiting))} to do" if known else "", ""),
        "processed": (f"{count(records.get('processed'))} done" if known else "", rate(rates["processed"]) if "processed" in rates else ""),
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
        x, y, anchor = arrow.narrow_text if narrow else arrow.wide_text
        first, second = words[arrow.key]
        if anchor and first:
            short = first.partition(" in ")[0].partition(" joined")[0] if narrow else first
            above = anchor == "middle" and not (not narrow and arrow.key == "truths")
            lines = [short, second] if second else [short]
            top = y - 15 * (len(lines) - 1) if above else y
            for i, line in enumerate(lines):
                parts += text(x, top + 15 * i, line, text_anchor=anchor, class_="amount" if i == 0 else "amount quiet")
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
    tip = "; ".join(f"{each['service']}: {each.get('state')}, {each.get('running', 0)} running" for each in found) or "not seen"
    content = tag("title", safe(tip))
    content += tag("rect", x=x, y=y, width=W, height=H, rx=9, class_="box")
    content += text(x + 14, y + 25, node.title, class_="title")
    content += text(x + 14, y + 44, SHAPES[worst], class_=f"sign {worst}")
    content += text(x + 29, y + 44, line, class_="state")
    return tag("g", content, class_=f"node {worst}", data_node=node.key)
