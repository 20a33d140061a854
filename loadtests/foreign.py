"""Any V2 server that Tonnage does not manage: what it takes, and requests made to fit.

Nothing is known of such a server but what it says and how it answers: no service time, no
CPU use, no control group. Everything the generator sees is still measured and judged.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from loadtests.payloads import Payloads
from loadtests.tls import Identity, client_context, refused_identity
from serving.app import MODEL_HEADER
from serving.errors import BadInput
from serving.records import Endpoint, TensorSpec
from serving.v2 import V2Error, dtype_of

# Single requests: so many of a class, and not many more of all of them where there are many.
_PROBES, _PROBES_IN_ALL = 5, 20
_FEWEST_PROBES = 2
# A server that takes this long to say what it serves is not there. ``--timeout`` is for inference.
_PATIENCE_S = 10.0


class ForeignServer:
    """A client for the metadata of one model on one server."""

    def __init__(
        self,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        insecure: bool = False,
        cacert: Path | None = None,
        identity: Identity | None = None,
    ) -> None:
        wanted = f"--endpoint {endpoint.url}: give http://host:port or https://host:port"
        try:
            parts = urlsplit(endpoint.url)
            self._port = parts.port  # checked only when it is asked for
        except ValueError as error:
            raise BadInput(f"{wanted} ({error})") from None
        bare = not (parts.query or parts.fragment)  # the load puts its paths behind the URL
        if parts.scheme not in ("http", "https") or not parts.hostname or not bare:
            raise BadInput(wanted)
        self._parts = parts
        self._endpoint = endpoint
        self._headers = dict(headers)
        self._timeout_s = timeout_s
        for option, given in (("insecure", insecure), ("cacert", cacert), ("cert", identity)):
            if parts.scheme == "http" and given:
                raise BadInput(
                    f"--{option} belongs to https://, and --endpoint {endpoint.url} is none"
                )
        self._identity = identity
        self._context = client_context(insecure=insecure, cacert=cacert, identity=identity)

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the model, from its metadata.

        BadInput when the server cannot be reached, has no such model, or says no shapes.
        """
        path = f"/v2/models/{self._endpoint.model_name}"
        status, body, _ = self._metadata()
        if status == 404:
            raise BadInput(
                f"{self._endpoint.url}: has no model {self._endpoint.model_name!r}; check --model"
            )
        if status != 200:
            raise BadInput(f"{self._endpoint.url}{path}: answered {status}: {_short(body)}")
        try:
            items = json.loads(body)["inputs"]
            specs = tuple(
                TensorSpec(
                    name=i["name"], datatype=i["datatype"], shape=tuple(map(int, i["shape"]))
                )
                for i in items
            )
            for spec in specs:
                dtype_of(spec.datatype)
        except (ValueError, KeyError, TypeError, V2Error) as error:
            raise BadInput(
                f"{self._endpoint.url}{path}: its metadata name no usable input shapes "
                f"({error}); is it a V2 server?"
            ) from None
        if not specs:
            raise BadInput(f"{self._endpoint.url}{path}: its metadata list no inputs")
        return specs

    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the model as far as its metadata name them; what they lack is left out."""
        found: dict[str, TensorSpec] = {}
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for item in json.loads(self._metadata()[1])["outputs"]:
                name = item["name"]
                found[name] = TensorSpec(name=name, datatype=item["datatype"], shape=())
        return tuple(found.values())

    def round_trip_s(self, payloads: Payloads) -> float:
        """Median time of a few single requests, of the slowest class of them.

        BadInput when they fail or take too long.
        """
        kinds = np.unique(payloads.classes)
        each = min(_PROBES, max(_FEWEST_PROBES, _PROBES_IN_ALL // len(kinds)))
        slowest = 0.0
        for kind in kinds:
            members = np.flatnonzero(payloads.classes == kind)
            named = f" of class {kind + 1} of {len(kinds)}" if len(kinds) > 1 else ""
            times = [
                self._answer_s(payloads, int(members[index % len(members)]), named)
                for index in range(each)
            ]
            slowest = max(slowest, statistics.median_low(times))
        return slowest

    def _answer_s(self, payloads: Payloads, index: int, named: str) -> float:
        """Seconds until the answer to one request, of the class ``named`` where there are more."""
        begin = time.perf_counter()
        try:
            status, answer, _ = self._exchange(
                "POST",
                f"/v2/models/{self._endpoint.model_name}/infer",
                self._timeout_s,
                payloads.bodies[index],
                {"Inference-Header-Content-Length": str(payloads.header_lengths[index])},
            )
        except TimeoutError:
            raise BadInput(
                f"{self._endpoint.url}: no answer{' to a request' if named else ''}{named} within "
                f"--timeout {self._timeout_s:g} s; the timeout is shorter than the service time"
            ) from None
        if status != 200:
            raise BadInput(
                f"{self._endpoint.url}: answered {status} to a generated request{named} "
                f"({_short(answer)}); give fitting rows with --payload FILE.npz"
            )
        return time.perf_counter() - begin

    def model_sha256(self) -> str | None:
        """Hash of the model file; None where the server does not tell it (only ours does)."""
        return self._metadata()[2].get(MODEL_HEADER)

    def _metadata(self) -> tuple[int, bytes, Mapping[str, str]]:
        patience_s = max(self._timeout_s, _PATIENCE_S)
        try:
            return self._exchange("GET", f"/v2/models/{self._endpoint.model_name}", patience_s)
        except TimeoutError:
            raise BadInput(
                f"{self._endpoint.url}: cannot be reached (no answer within {patience_s:g} s)"
            ) from None

    def _exchange(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """One request; BadInput when it cannot be put to the server, TimeoutError as it is."""
        kind: Any = http.client.HTTPConnection
        options: dict[str, Any] = {"timeout": timeout_s}
        if self._parts.scheme == "https":
            kind, options["context"] = http.client.HTTPSConnection, self._context
        connection = kind(self._parts.hostname, self._port, **options)
        try:
            connection.request(
                method,
                self._parts.path.rstrip("/") + path,
                body or None,
                {**self._headers, **(headers or {})},
            )
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        except TimeoutError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise BadInput(
                f"{self._endpoint.url}: its certificate is not trusted ({error.verify_message}); "
                "give that of its authority with --cacert, or --insecure"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            why = f"cannot be reached ({error})"
            if isinstance(error, OSError) and self._parts.scheme == "https":
                why = refused_identity(error, self._identity) or why
            raise BadInput(f"{self._endpoint.url}: {why}") from None
        except ValueError as error:  # a name or a header that HTTP has no letters for
            raise BadInput(
                f"{self._endpoint.url}: no request can be made ({error}); check host, --model and "
                "--header"
            ) from None
        finally:
            connection.close()


def _short(body: bytes) -> str:
    return body[:120].decode(errors="replace").strip() or "empty answer"
