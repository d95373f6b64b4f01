"""Alert rules as a deployment declares them: ``alerts.yaml`` in its ``config_dir``, or the defaults that ship with this package."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from complex_system.domain.yaml_reader import Place, YamlFile

Severity = Literal["info", "warning", "critical"]
SEVERITIES = ("info", "warning", "critical")

COUNTS = {
    "performance/": "performance/count",
    "drift/": "drift/judged",
    "data/": "data/samples",
    "rejected/": "rejected/count",
    "latency/": "latency/count",
}
"""The metric that holds the samples behind a metric, by the beginning of its name; a rule may name another with ``count``."""


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
        count: Metric with the number of samples; empty where it follows from the metric's name.
        severity: How bad it is.
        retrain: Whether a training round shall follow.
        text: A sentence of the deployment's own, with ``{subject}``, ``{value}`` and ``{threshold}``; empty for ours.
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
    def count_metric(self) -> str:
        """Metric that holds the number of samples behind the rule's; empty when none is known."""
        return self.count or next((name for prefix, name in COUNTS.items() if self.metric.startswith(prefix)), "")

    def subject_of(self, metric: str) -> str | None:
        """What ``*`` stands for in a metric's name; an empty text where the rule has none; None where it does not match."""
        head, star, tail = self.metric.partition("*")
        if not star:
            return "" if metric == self.metric else None
        if metric.startswith(head) and metric.endswith(tail) and len(metric) > len(head) + len(tail):
            return metric[len(head) : len(metric) - len(tail)]
        return None

    def is_beyond(self, value: float) -> bool:
        """Whether a value is on the bad side of the threshold."""
        return value > self.threshold if self.above else value < self.threshold

    def is_clear(self, value: float) -> bool:
        """Whether a value is good enough for an alert to end."""
        return value <= self.clear if self.above else value >= self.clear


def load_rules(config_dir: str | Path | None = None, file: str = "alerts.yaml") -> tuple[AlertRule, ...]:
    """The rules of a deployment.

    Args:
        config_dir: Folder of the deployment's files.
        file: Name of the rules' file there, or an absolute path.

    Raises:
        DeclarationError: The file is not valid; the sentence names its line, the key, and what is allowed.
    """
    path = Path(config_dir or "", file)
    if path.is_file():
        return parse_rules(path.read_text(encoding="utf-8"), str(path))
    return parse_rules((resources.files(__package__) / "alerts.yaml").read_text(encoding="utf-8"), "alerts.yaml (shipped)")


def parse_rules(text: str, source: str = "alerts.yaml") -> tuple[AlertRule, ...]:
    """Reads rules.

    Raises:
        DeclarationError: As for :func:`load_rules`.
    """
    return _Reader(YamlFile(text, source)).rules()


@dataclass(frozen=True)
class _Key:
    """What a key takes, in words and as a check that returns the value or raises ``ValueError``."""

    allowed: str
    read: Callable[[Any], Any]


def _number(low: float = -math.inf) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < low:
            raise ValueError
        return float(value)

    return read


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 40 or not value.replace("-", "").isalnum():
        raise ValueError
    return value


def _pattern(value: Any) -> str:
    if not isinstance(value, str) or not value or value.count("*") > 1 or any(each.isspace() for each in value):
        raise ValueError
    return value


def _sentence(value: Any) -> str:
    try:
        _text(value).format(subject="", value=0.0, threshold=0.0)
    except (KeyError, IndexError, AttributeError) as error:
        raise ValueError from error
    return str(value)


def _one_of(*allowed: Any) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            raise ValueError
        return value

    return read


_SECONDS = _Key("a number of seconds of at least 0", _number(0))
_KEYS = {
    "name": _Key("a text of letters, digits and hyphens, at most 40", _name),
    "metric": _Key("the name of a metric such as performance/rmse, or a pattern with one * such as drift/psi/*", _pattern),
    "above": _Key("a number", _number()),
    "below": _Key("a number", _number()),
    "clear": _Key("a number", _number()),
    "for": _SECONDS,
    "clear_for": _SECONDS,
    "window": _SECONDS,
    "min_count": _Key("a whole number of at least 0", _whole),
    "count": _Key("the name of a metric", _text),
    "severity": _Key(f"one of {', '.join(SEVERITIES)}", _one_of(*SEVERITIES)),
    "retrain": _Key("true or false", _one_of(True, False)),
    "text": _Key("a sentence that may hold {subject}, {value} and {threshold}", _sentence),
}


class _Reader:
    """Makes rules of a file's content; errors name the line."""

    def __init__(self, file: YamlFile) -> None:
        self._file = file

    def rules(self) -> tuple[AlertRule, ...]:
        content = self._file.content
        if content is None:
            return ()
        allowed = "the one key 'rules' with a list of rules"
        if not isinstance(content, dict):
            raise self._file.error((), f"the file must be a mapping with {allowed}")
        for key in map(str, content):
            if key != "rules":
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
            known = _KEYS.get(name)
            if known is None:
                raise self._file.error((*place, name), f"the key '{name}' is not known; allowed are {', '.join(_KEYS)}")
            try:
                values[name] = known.read(content)
            except (ValueError, TypeError):
                problem = f"'{name}' must be {known.allowed}, not {content!r}"
                raise self._file.error((*place, name), problem) from None
        for needed in ("name", "metric"):
            if needed not in values:
                raise self._file.error(place, f"the rule needs '{needed}': {_KEYS[needed].allowed}")
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
        plain = {field.name for field in fields(AlertRule)} & set(values) - {"clear", "above"}
        rule = AlertRule(
            above=above, threshold=threshold, clear=clear, lasting=values.get("for", 0.0),
            **{key: values[key] for key in plain},
        )  # fmt: skip
        if rule.min_count and not rule.count_metric:
            raise self._file.error(
                place, f"'min_count' of the rule '{name}' needs 'count': the name of the metric that counts"
            )
        return rule
