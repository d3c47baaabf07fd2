"""Values in YAML text, of which class names stay as they are written."""

import re
from typing import Any

import yaml

_TEXT, _INT, _FLOAT, *_OTHERS = (
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "timestamp", "value")
)
# YAML 1.1 takes 00014 for octal, which is 12, and 1:30 for sexagesimal, which is 90.
_NO_NUMBER = re.compile(r"[-+]?0[0-9_]|[^:]*:")


def parse_yaml(text: str) -> Any:
    """The value that ``text`` holds; keys, and such as 00014 and 1:30, are the text they are.

    Raises yaml.YAMLError for all that is none, and for a mapping that names a key twice.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except ValueError as error:  # a date such as 2024-13-45
        raise yaml.YAMLError(str(error)) from None
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """Keeps what may be the name of a class as it is written, and refuses a key that repeats."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return _TEXT if tag in (_INT, _FLOAT) and _NO_NUMBER.match(value) else tag

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not later, when "<<" has put the keys of another mapping beside those written here.
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for place, (key, value) in enumerate(node.value):
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is there twice, keep one of the two",
                    problem_mark=key.start_mark,
                )
            seen.add(key.value)
            if key.tag in (_INT, _FLOAT, *_OTHERS):  # 14 and no are names as good as any
                text = yaml.ScalarNode(_TEXT, key.value, key.start_mark, key.end_mark)
                node.value[place] = text, value
        return node
