"""Draws what a run printed as a moving picture of a terminal: ``python docs/recording.py LOG docs/images/demo.svg``.

LOG is the output of ``make demo ONCE=1`` into a file. Times are the run's, shortened to SECONDS; lines are cut, and left out where
they only repeat.
"""

from __future__ import annotations

import argparse
import re
from html import escape
from pathlib import Path

SECONDS, REST = 16.0, 6.0
"""Of the run in the picture, and of its last picture before it begins again."""
COLUMNS, LINE, CHARACTER, MARGIN = 108, 19, 7.8, 18
_LEFT_OUT = re.compile(
    r": (stopped|waiting|working|ready$|ready, loading|logging|training \d)|^stopping|data and logs|repeat it|95 % intervals|"
    r"The error is|over NATS|by ml_serving|\(baseline\)|records: .* [1-9][\d,]* saved, 0 processed"
)
_STYLE = """
text { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #d7dde5; white-space: pre; }
.time { fill: #7d8896; } .good { fill: #7ee787; } .command { fill: #79c0ff; }
g { opacity: 0; animation-duration: %gs; animation-iteration-count: infinite; animation-timing-function: step-end; }
@media (prefers-reduced-motion: reduce) { g { animation: none; opacity: 1; } }
"""


def lines_of(log: str) -> list[tuple[float, str]]:
    """Return (seconds, text) of the events that are shown."""
    found = [(float(match[1]), match[2]) for match in re.finditer(r"^ *([\d.]+) s  (.+)$", log, re.MULTILINE)]
    end = next((place for place, (_, text) in enumerate(found) if text.startswith("stopping")), len(found))
    return [(at, text) for at, text in found[:end] if not _LEFT_OUT.search(text)]


def picture(log: str, command: str = "make demo") -> str:
    """Return the picture as SVG."""
    lines = lines_of(log)
    last, whole = max(at for at, _ in lines), SECONDS + REST
    height = MARGIN * 2 + LINE * (len(lines) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * CHARACTER + 2 * MARGIN:g} {height}" role="img">',
        f"<title>What {escape(command)} prints, from the first server to the first prediction</title>",
        f"<style>{_STYLE % whole}</style>",
        f'<rect width="100%" height="{height}" rx="8" fill="#161b22"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 12}"><tspan class="command">$ {escape(command)}</tspan></text>',
    ]
    for row, (at, text) in enumerate(lines, start=1):
        shown = text if len(text) <= COLUMNS - 11 else text[: COLUMNS - 14] + "..."
        kind = ' class="good"' if text.startswith(("champion", "prediction")) else ""
        percent = 100 * SECONDS * at / last / whole
        parts.append(
            f"<style>@keyframes k{row} {{ 0% {{ opacity: 0 }} {percent:.2f}% {{ opacity: 1 }} 100% {{ opacity: 1 }} }}</style>"
            f'<g style="animation-name: k{row}"><text x="{MARGIN}" y="{MARGIN + 12 + LINE * row}">'
            f'<tspan class="time">{at:7.1f} s  </tspan>'
            f"<tspan{kind}>{escape(shown)}</tspan></text></g>"
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0] + ".")
    parser.add_argument("log", type=Path, metavar="LOG", help="the output of `make demo ONCE=1` in a file")
    parser.add_argument("picture", type=Path, help="the SVG file to write")
    given = parser.parse_args()
    given.picture.write_text(picture(given.log.read_text(encoding="utf-8")), encoding="utf-8")
