"""Alert rules of a deployment: ``alerts.yaml`` in its ``config_dir``, or the defaults that ship with this package."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from complex_system.domain.yaml_reader import Place, YamlFile
from complex_system.protocol.operations import Severity
from complex_system.protocol.training import Moved

SEVERITIES = ("info", "warning", "critical")

COUNTS = {
    "performance": "performance/count",
    "drift": "drift/judged",
    "data": "data/samples",
    "rejected": "rejected/count",
    "latency": "latency/count",
}
"""The metric with the number of samples behind the metrics of a group; a rule may name another one with ``count``."""


@dataclass(frozen=True)
class AlertRule:
    """One rule.

    Attributes:
        name: What the alerts are called; letters, digits and hyphens.
        metric: Name of a metric, or a pattern with one ``*``, where every match has an alert of its own.
        threshold: The alert begins beyond it, on the side of ``above``.
        clear: The alert ends when the metric is back at this value or better.
        above: Whether too much is bad; otherwise too little.
        lasting: Seconds that it must last before the alert is raised (key ``for``).
        clear_for: Seconds that the metric must be good before the alert ends.
        window: Seconds over which the metric is averaged; 0 for the newest value.
        min_count: Samples behind the metric below which nothing is judged.
        count: Metric with the number of samples; empty for that of the metric's group.
        severity: How bad it is.
        retrain: Whether it asks for a training round.
        text: The deployment's own message, with ``{subject}``, ``{value}`` and ``{threshold}``; empty for ours.
    """

    name: str
    metric: str
    threshold: float
    clear: float
    above: bool = True
    lasting: float = 0.0
    clear_for: float = 0.0
    window: float = 0.0
    min_count: int = 0
    count: str = ""
    severity: Severity = "warning"
    retrain: bool = False
    text: str = ""

    @property
    def moved(self) -> Moved | None:
        """What an alert of this rule says has moved: the error of the predictions, or their inputs; None for anything else."""
        group = self.metric.partition("/")[0]
        return "error" if group == "performance" else "input" if group in ("drift", "data") else None

    @property
    def count_metric(self) -> str:
        """Metric that holds the number of samples behind the rule's; empty when none is known."""
        return self.count or COUNTS.get(self.metric.partition("/")[0], "")

    def subject_of(self, metric: str) -> str | None:
        """Return what ``*`` stands for in a metric's name, or an empty text without one; None where the rule does not match."""
        head, star, tail = self.metric.partition("*")
        if not star:
            return "" if metric == self.metric else None
        if metric.startswith(head) and metric.endswith(tail) and len(metric) > len(head) + len(tail):
            return metric[len(head) : len(metric) - len(tail)]
        return None

    def is_beyond(self, value: float) -> bool:
        """Return whether a value is on the bad side of the threshold."""
        return value > self.threshold if self.above else value < self.threshold

    def is_clear(self, value: float) -> bool:
        """Return whether a value is good enough for an alert to end."""
        return value <= self.clear if self.above else value >= self.clear


def load_rules(config_dir: str | Path | None = None, file: str = "alerts.yaml") -> tuple[AlertRule, ...]:
    """Return the rules of a deployment. A file with a block ``messages`` and without ``rules`` leaves the shipped rules in place.

    Args:
        config_dir: Folder of the deployment's files.
        file: Name of the rules' file there, or an absolute path.

    Raises:
        DeclarationError: The file is not valid; the message names its line, the key, and what is allowed.
    """
    path = Path(config_dir or "", file)
    if path.is_file():
        declared = YamlFile(path.read_text(encoding="utf-8"), str(path))
        rules = _Reader(declared).rules()
        if "rules" in (declared.content or {}) or "messages" not in (declared.content or {}):
            return rules
    return parse_rules((resources.files(__package__) / "alerts.yaml").read_text(encoding="utf-8"), "alerts.yaml (shipped)")


def parse_rules(text: str, source: str = "alerts.yaml") -> tuple[AlertRule, ...]:
    """Return the rules in a text.

    Raises:
        DeclarationError: As for :func:`load_rules`.
    """
    return _Reader(YamlFile(text, source)).rules()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_seconds(value: Any) -> bool:
    """Return whether a declared value is a number of seconds."""
    return _is_number(value) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_template(value: Any) -> bool:
    try:
        return _is_text(value) and bool(value.format(subject="", value=0.0, threshold=0.0))
    except (KeyError, IndexError, AttributeError, ValueError):
        return False


_NUMBER = ("a number", _is_number)
_SECONDS = ("a number of seconds of at least 0", is_seconds)
_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": (
        "a text of letters, digits and hyphens, at most 40",
        lambda value: isinstance(value, str) and 0 < len(value) <= 40 and value.replace("-", "").isalnum(),
    ),
    "metric": (
        "the name of a metric such as performance/rmse, or a pattern with one * such as drift/psi/*",
        lambda value: _is_text(value) and value.count("*") <= 1 and not any(map(str.isspace, value)),
    ),
    "above": _NUMBER,
    "below": _NUMBER,
    "clear": _NUMBER,
    "for": _SECONDS,
    "clear_for": _SECONDS,
    "window": _SECONDS,
    "min_count": ("a whole number of at least 0", lambda value: is_seconds(value) and isinstance(value, int)),
    "count": ("the name of a metric", _is_text),
    "severity": (f"one of {', '.join(SEVERITIES)}", lambda value: value in SEVERITIES),
    "retrain": ("true or false", lambda value: isinstance(value, bool)),
    "text": ("a sentence that may hold {subject}, {value} and {threshold}", _is_template),
}
"""The allowed values of each key: for the error message, and as a check."""


class _Reader:
    """Reads the rules of a file; errors name the line."""

    def __init__(self, file: YamlFile) -> None:
        self._file = file

    def rules(self) -> tuple[AlertRule, ...]:
        content = self._file.content
        if content is None:
            return ()
        allowed = "the key 'rules' with a list of rules, and 'messages'"
        if not isinstance(content, dict):
            raise self._file.error((), f"the file must be a mapping with {allowed}")
        for key in map(str, content):
            if key not in ("rules", "messages"):  # monitoring.alerts.messages reads the second
                raise self._file.error((key,), f"the key '{key}' is not known; allowed is {allowed}")
        if not isinstance(content.get("rules", []), list):
            raise self._file.error(("rules",), "'rules' must be a list of rules; each begins with '- name: ...'")
        for place, problem in self._file.duplicates:
            raise self._file.error(place, f"the key '{place[-1]}' {problem}")
        found: list[AlertRule] = []
        for position, rule in enumerate(content.get("rules", [])):
            place = ("rules", position)
            found.append(self._rule(rule, place))
            if any(found[-1].name == other.name for other in found[:-1]):
                raise self._file.error(place, f"the rule '{found[-1].name}' is there twice; names must differ")
        return tuple(found)

    def _rule(self, declared: Any, place: Place) -> AlertRule:
        if not isinstance(declared, dict):
            raise self._file.error(place, f"a rule must be a mapping; allowed keys are {', '.join(_KEYS)}")
        values: dict[str, Any] = {}
        for key, content in declared.items():
            name = str(key)
            if name not in _KEYS:
                raise self._file.error((*place, name), f"the key '{name}' is not known; allowed are {', '.join(_KEYS)}")
            allowed, is_valid = _KEYS[name]
            if not is_valid(content):
                raise self._file.error((*place, name), f"'{name}' must be {allowed}, not {content!r}")
            values[name] = content
        for needed in ("name", "metric"):
            if needed not in values:
                raise self._file.error(place, f"the rule needs '{needed}': {_KEYS[needed][0]}")
        return self._made(place, values)

    def _made(self, place: Place, values: dict[str, Any]) -> AlertRule:
        name = values["name"]
        if ("above" in values) == ("below" in values):
            raise self._file.error(place, f"the rule '{name}' needs either 'above' or 'below': a number")
        above = "above" in values
        threshold = values["above"] if above else values["below"]
        clear = values.get("clear", threshold)
        if clear > threshold if above else clear < threshold:
            side = "at most 'above'" if above else "at least 'below'"
            raise self._file.error(place, f"'clear' of the rule '{name}' must be {side} ({threshold:g}), not {clear:g}")
        plain = {key: value for key, value in values.items() if key not in ("above", "below", "clear", "for")}
        lasting = values.get("for", 0.0)
        rule = AlertRule(**plain, above=above, threshold=float(threshold), clear=float(clear), lasting=lasting)
        if rule.min_count and not rule.count_metric:
            raise self._file.error(
                place, f"'min_count' of the rule '{name}' needs 'count': the name of the metric that counts"
            )
        return rule
