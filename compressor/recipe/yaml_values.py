"""Reading YAML within bounds: aliases multiply values."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from compressor.wording import quote

#: Bounds of a recipe; a full one has 4 kB, 100 values and 4 levels.
MAX_BYTES, MAX_VALUES, MAX_NESTING = 1 << 18, 20_000, 32


class LimitError(Exception):
    """Values beyond the bounds; names bound and line."""


def load_yaml(text: str) -> Any:
    """Plain values of a YAML text.

    Raises:
        LimitError: more than `MAX_VALUES`, aliases counted, deeper than `MAX_NESTING`, or cyclic.
        yaml.YAMLError: not YAML, or a key twice.
        ValueError: invalid number or date.
    """
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """Counts values while parsing, before building any."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        #: Number of values below each complete anchor.
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        line = f"line {event.start_mark.line + 1}"
        alias = isinstance(event, yaml.AliasEvent)
        if alias and event.anchor in self.anchors and event.anchor not in self._sizes:
            raise LimitError(f"the alias *{event.anchor} contains itself ({line})")
        before = self._values
        self._values += self._sizes.get(event.anchor, 1) if alias else 1
        self._depth += 1
        if self._values > MAX_VALUES:
            raise LimitError(f"it holds more than {MAX_VALUES} values, those of aliases included ({line})")
        if self._depth > MAX_NESTING:
            raise LimitError(f"it is nested deeper than {MAX_NESTING} levels ({line})")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None and not alias:
            self._sizes[event.anchor] = self._values - before
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key in (key.value for key, _ in node.value if isinstance(key, ScalarNode)):
            # YAML would silently take the last one.
            if key in keys:
                problem = f"the key {quote(key)} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)
