"""Reading TOML files of configuration: every mistake ends in one line that says what to change."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from serving.errors import BadInput
from serving.records import Record

R = TypeVar("R", bound=Record)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a file as nested dicts. BadInput when it is missing, unreadable or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path}: not valid TOML: {error}; correct that line") from None


def build_record(kind: type[R], table: object, where: str) -> R:
    """Build a record from a TOML table; ``where`` names file and table for the message.

    Types are strict: a number in quotes is refused, not converted. TOML arrays become
    tuples, dates their ISO form. BadInput names the key and what to change.
    """
    if not isinstance(table, Mapping):
        raise BadInput(f"{where}: must be a table of keys, not {table!r}")
    for key, value in table.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{where}: key '{key}' is {value}; give a finite number")
    try:
        # Through JSON, where strict reading still knows tuples, enums and paths.
        return kind.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        raise BadInput(f"{where}: {in_words(kind, error)}") from None


def build_named(kind: type[R], name: str, table: object, path: Path) -> R:
    """Build a record from ``[name]`` of a file, where the table's name is the record's."""
    where = f"{path}: [{name}]"
    if not isinstance(table, Mapping):
        raise BadInput(f"{where}: must be a table; '{name} = {table!r}' stands outside of any")
    if "name" in table:
        raise BadInput(f"{where}: remove the key 'name'; the table's own name is used")
    return build_record(kind, {"name": name, **table}, where)


def near_matches(word: str, known: Iterable[str]) -> str:
    """``did you mean 'a' or 'b'?``, or else the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"known are: {', '.join(names)}" if names else "none is known"


def in_words(kind: type[Record], error: ValidationError) -> str:
    """The first mistake of a record, by its key, and what to change."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key '{key}'; {near_matches(key, kind.model_fields)}"
        case "missing":
            return f"key '{key}' is missing; add it"
        case "value_error":
            reason = str(first["msg"]).removeprefix("Value error, ")
            return f"key '{key}': {reason}" if key else reason
        case _:
            message = str(first["msg"])
            lowered = message[:1].lower() + message[1:]
            return f"key '{key}' is {first['input']!r}: {lowered}; change it"
