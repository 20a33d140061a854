"""YAML as an export writes it: a comment on top, keys in the order they were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # yaml has no types
    """Writes texts of several lines as blocks, which is how people write them."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
# The same record twice is written twice: an anchor is for programs.
_Dumper.ignore_aliases = lambda self, data: True


def to_yaml(*documents: Any, comment: Sequence[str] = ()) -> str:
    """The documents, separated as Kubernetes wants them, under the lines of ``comment``."""
    texts = [
        yaml.dump(d, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
        for d in documents
    ]
    return "".join(f"# {line}\n" for line in comment) + "---\n".join(texts)
