"""YAML as study files are written. No torch."""

from __future__ import annotations

import re

import yaml

_TEXT = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")


class StrictLoader(yaml.SafeLoader):
    """YAML in which `on`, `yes` and `N` are text, as in YAML 1.2: `on` is a key of a task, the others are cells.

    A key that stands twice is an error; the first would be forgotten without a word.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  (typed so by its base)
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _TEXT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
