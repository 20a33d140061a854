"""How each request of a run is put on the wire, and what makes its answer a good one.

Two protocols share it: V2 inference, and whatever the server of a user speaks.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from serving.errors import BadInput
from serving.records import Endpoint, Record, TensorSpec

_ANY_SUCCESS = tuple(range(200, 300))


class Check(Record):
    """What an answer must be: one of these statuses, and all of these in its body."""

    statuses: tuple[int, ...] = (200,)
    contains: tuple[str, ...] = Field(default=(), description="text that the body holds")
    holds_json: tuple[str, ...] = Field(
        default=(), description="JSON of which every key and item is in the body's own"
    )

    outputs: tuple[TensorSpec, ...] | None = Field(
        default=None, description="that an answer over V2 has; none named: any; null: not V2"
    )

    @property
    def reads_bodies(self) -> bool:
        """Whether text is looked for."""
        return bool(self.contains or self.holds_json)

    def failure(self, body: bytes) -> str | None:
        """What is wrong with the body of an answer, or None."""
        text = body.decode(errors="replace")
        for wanted in self.contains:
            if wanted not in text:
                return f"does not contain {wanted!r}"
        for wanted in self.holds_json:
            try:
                found = json.loads(body)
            except ValueError:
                return "is not JSON"
            if not _within(json.loads(wanted), found):
                return f"does not hold {wanted}"
        return None


class HttpCall(Record):
    """Method, path and headers of every request of a run, and the check of its answers."""

    method: str = "POST"
    path: str
    headers: dict[str, str] = Field(default_factory=dict)
    warm_path: str = Field(default="/", description="asked once on every new connection")
    check: Check = Check()
    locustfile: str | None = Field(
        default=None, description="a task of this file is run in the place of each request"
    )


def v2_call(endpoint: Endpoint) -> HttpCall:
    """Inference over V2, with binary tensors."""
    base = f"/v2/models/{endpoint.model_name}"
    return HttpCall(
        path=f"{base}/infer",
        headers={"Content-Type": "application/octet-stream"},
        warm_path=f"{base}/ready",
    )


def parse_checks(given: list[str]) -> Check:
    """Checks as a user writes them: a status, a JSON object or array, or text.

    Without a status every 2xx is good. BadInput for a status that is none.
    """
    statuses: list[int] = []
    contains: list[str] = []
    holds: list[str] = []
    for text in given:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if isinstance(value, int) and not isinstance(value, bool):
            if not 100 <= value <= 599:
                raise BadInput(f"--check {text}: not an HTTP status; quote it to look for the text")
            statuses.append(value)
        elif isinstance(value, dict | list):
            holds.append(text)
        elif text:
            contains.append(value if isinstance(value, str) else text)
        else:
            raise BadInput("--check '': give a status, a JSON object, or text of the answer")
    return Check(
        statuses=tuple(statuses) or _ANY_SUCCESS, contains=tuple(contains), holds_json=tuple(holds)
    )


def _within(wanted: Any, found: Any) -> bool:
    """Whether ``wanted`` is part of ``found``: objects by key, arrays item by item.

    >>> _within({"a": [1]}, {"a": [1, 2], "b": 3})
    True
    """
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            key in found and _within(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) <= len(found)
            and all(_within(w, f) for w, f in zip(wanted, found, strict=False))
        )
    return bool(wanted == found)
