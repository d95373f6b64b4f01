"""A YAML file whose parts know their lines, for declarations and rules that people write."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import yaml

from complex_system.errors import DeclarationError

Place = tuple[str | int, ...]
"""Keys and positions from the top, such as ``("columns", 2, "range")``."""
Fault = tuple[Place, str]
"""What is wrong, and where."""
_TEXT = "tag:yaml.org,2002:str"
_BOOLEAN = "tag:yaml.org,2002:bool"
_OTHER_THAN_TEXTS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp")}


class YamlFile:
    """The content of a YAML text, and the lines of its parts.

    Attributes:
        source: Name of the file in messages.
        content: Mappings, lists and scalars.
        duplicates: A fault for every key that its mapping has already.
    """

    def __init__(self, text: str, source: str, *, verbatim: Collection[str] = (), names: Collection[str] = ()) -> None:
        """Read a text.

        Args:
            text: YAML.
            source: Name of the file in messages.
            verbatim: Keys whose lists, or mappings of lists, hold texts exactly as written: 007 is not a number there, and NO is not
                a boolean.
            names: Keys of a name, or of a list of names: texts as written, too, but an empty or null one is none.

        Raises:
            DeclarationError: The text is not YAML; names the line and the usual cause.
        """
        self.source = source
        self.duplicates: list[Fault] = []
        self._verbatim = verbatim
        self._names = names
        self._seen: set[int] = set()
        loader = yaml.SafeLoader(text)
        try:
            self._root = loader.get_single_node()
            self._check(self._root, ())
            self.content: Any = None if self._root is None else loader.construct_document(self._root)
        except yaml.YAMLError as error:
            raise DeclarationError(f"{source} is not YAML: {_explained(error)}.") from error
        finally:
            loader.dispose()

    def line(self, place: Place) -> int:
        """Return the line, from 1, of the deepest part of ``place`` that exists."""
        node, line = self._root, 1 if self._root is None else self._root.start_mark.line + 1
        for part in place:
            found = None
            if isinstance(node, yaml.MappingNode):
                found = next(((key, value) for key, value in reversed(node.value) if key.value == part), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = (node.value[part], node.value[part])
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        return line

    def error(self, place: Place, problem: str) -> DeclarationError:
        """Return an error that names file and line."""
        return DeclarationError(f"{self.source}, line {self.line(place)}: {problem}.")

    def _check(self, node: yaml.Node | None, place: Place) -> None:
        if node is None or id(node) in self._seen:  # an alias
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            names: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                if name in names:
                    self.duplicates.append(((*place, name), "is there twice; keep one of the two"))
                names.add(name)
                # YAML 1.1 reads the key ``on`` as true.
                if isinstance(key, yaml.ScalarNode) and (key.tag == _BOOLEAN or (place and place[-1] in self._verbatim)):
                    key.tag = _TEXT
                if name in self._names:
                    for each in value.value if isinstance(value, yaml.SequenceNode) else (value,):
                        if isinstance(each, yaml.ScalarNode) and each.tag in _OTHER_THAN_TEXTS:
                            each.tag = _TEXT
                self._check(value, (*place, name))
        elif isinstance(node, yaml.SequenceNode):
            for position, each in enumerate(node.value):
                if isinstance(each, yaml.ScalarNode) and any(part in self._verbatim for part in place[-2:]):
                    each.tag = _TEXT
                self._check(each, (*place, position))


def _explained(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    start = error.context_mark
    since = f" (in the part that starts in line {start.line + 1})" if start and start.line != error.problem_mark.line else ""
    hint = (
        "indent lines with spaces only"
        if "\\t" in (error.problem or "")
        else "look for a bracket or quotation mark that is not closed, a missing comma, and ': ' in a text without quotes"
    )
    return f"line {error.problem_mark.line + 1}{since}: {error.problem}; {hint}"
