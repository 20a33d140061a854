"""What ``tonnage run`` is told about a model or a server that has no study."""

from __future__ import annotations

import logging
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from loadtests.http_call import HttpCall, parse_checks
from serving.errors import BadInput
from serving.own_model import OwnSource, open_own_model
from serving.wishes import parse_wish
from tonnage.durations import seconds_of
from tonnage.load import parse_headers
from tonnage.own_server import SERVER, OwnServer, ServerRun
from tonnage.own_study import HOST_SIZES, Asked, study_name, write_study
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder
from tonnage.study import StudyRun

Many = list[str] | None

Rate = Annotated[float | None, typer.Option("--rate", help="requests per second, Poisson")]
P99 = Annotated[str | None, typer.Option("--p99", help="limit of the latency, such as 20ms")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="rows in a request; default: 1")]
Instances = Annotated[
    Many,
    typer.Option(
        "--instance", help=f"sizes to try, repeatable; default: {' and '.join(HOST_SIZES)}"
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="of the run; default: made up")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="default: 0")]

Model = Annotated[
    str | None, typer.Option("--model", help="your model: .onnx, .skops, .pt2, .pt, a pickle")
]
Input = Annotated[
    Many, typer.Option("--input", help="NAME=TYPE[DIMENSIONS]:VALUES, parts as needed, repeatable")
]
Payload = Annotated[
    Path | None, typer.Option("--payload", help=".npz or .parquet with rows by input name")
]
PickleHash = Annotated[
    str | None, typer.Option("--allow-pickle-sha256", help="the pickle that you vouch for")
]

Cmd = Annotated[
    str | None, typer.Option("--cmd", help="starts your server; {port} is replaced; no shell")
]
Request = Annotated[
    list[Path] | None, typer.Option("--request", help="file with a request body, repeatable")
]
Url = Annotated[str | None, typer.Option("--url", help="path that requests go to; default: /")]
Method = Annotated[str | None, typer.Option("--method", help="default: POST")]
Header = Annotated[Many, typer.Option("--header", help="'name: value', repeatable")]
CheckOption = Annotated[
    Many, typer.Option("--check", help="status, JSON or text of a good answer, repeatable")
]
Health = Annotated[str | None, typer.Option("--health", help="path that says the server is ready")]
Port = Annotated[
    int | None, typer.Option("--port", min=1, max=65535, help="where it listens, without {port}")
]
StartTimeout = Annotated[
    str | None, typer.Option("--start-timeout", help="until it answers; default: 60s")
]
Locustfile = Annotated[
    Path | None, typer.Option("--locustfile", help="each request is a task of this file")
]

# A variant that reproduces less of the original's answers is kept, and not recommended.
MAX_FIDELITY_LOSS = 0.05
_OPEN_S = 12.0
_START_TIMEOUT = "60s"
_TYPES = {".json": "application/json", ".txt": "text/plain", ".xml": "application/xml"}


def only_with(what: str, options: Mapping[str, object]) -> None:
    """BadInput for an option that would be ignored without a word."""
    for option, value in options.items():
        if value is not None:
            raise BadInput(f"{option} belongs to {what}")


def asked_of(
    rate: float | None,
    p99: str | None,
    batch: int | None,
    instances: Sequence[str] | None,
    name: str | None,
    seed: int | None,
) -> Asked:
    """The demand; BadInput when rate or limit is missing."""
    if rate is None or p99 is None:
        raise BadInput("run: say what is demanded with --rate REQUESTS_PER_SECOND and --p99 LIMIT")
    if not 0 < rate < float("inf"):
        raise BadInput(f"--rate {rate:g}: must be a positive number")
    return Asked(
        rate_rps=rate,
        p99_ms=1e3 * seconds_of(p99, "--p99"),
        batch=batch or 1,
        instances=tuple(instances or HOST_SIZES),
        name=name,
        seed=seed or 0,
    )


def server_of(
    *,
    cmd: str,
    request: Sequence[Path] | None,
    url: str | None,
    method: str | None,
    header: Sequence[str] | None,
    check: Sequence[str] | None,
    health: str | None,
    port: int | None,
    start_timeout: str | None,
    locustfile: Path | None,
) -> OwnServer:
    """The server that ``--cmd`` starts; BadInput for whatever cannot be used."""
    url = url or "/"
    for option, path in (("--url", url), ("--health", health or "/")):
        if not path.startswith("/"):
            raise BadInput(f"{option} {path}: give the path alone, such as /predict")
    files = list(request or ())
    method = (method or "POST").upper()
    if not files and method not in ("GET", "HEAD", "DELETE") and locustfile is None:
        raise BadInput(
            f"--cmd: give the body of a request with --request FILE, or --method GET, or tasks of "
            f"your own with --locustfile (the method is {method})"
        )
    if locustfile is not None and not locustfile.is_file():
        raise BadInput(f"--locustfile {locustfile}: no such file")
    if locustfile is not None and (files or header or check):
        raise BadInput(
            "--locustfile: its tasks make and check their own requests; leave out --request, "
            "--header and --check"
        )
    headers = parse_headers(list(header or ()))
    if files and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = _TYPES.get(files[0].suffix, "application/octet-stream")
    return OwnServer(
        command=cmd,
        call=HttpCall(
            method=method,
            path=url,
            headers=headers,
            warm_path=health or "/",
            check=parse_checks(list(check or ())),
            locustfile=str(locustfile.absolute()) if locustfile else None,
        ),
        bodies=[_body(path) for path in files] or [b""],
        health=health,
        port=port,
        start_timeout_s=seconds_of(start_timeout or _START_TIMEOUT, "--start-timeout"),
    )


def model_run(
    path: str,
    asked: Asked,
    *,
    inputs: Sequence[str] | None,
    payload: Path | None,
    allow_pickle_sha256: str | None,
    quick: bool,
    budget_s: float | None,
) -> StudyRun:
    """The run of a model; it is opened, and its variants are tried, with progress."""
    stem = Path(path).stem if Path(path).exists() else path.rpartition(":")[2]
    name = study_name(asked.name, stem)
    source = OwnSource(
        path=path,
        batch=asked.batch,
        seed=asked.seed,
        wishes=tuple(parse_wish(text) for text in inputs or ()),
        payload=payload,
        allow_pickle_sha256=allow_pickle_sha256,
    )
    with Steps(_OPEN_S) as steps, _hushed():
        model = open_own_model(source, name, lambda line: steps.step(f"model: {line}", _OPEN_S / 4))
        for note in model.notes:
            steps.say(note)
    study, study_path = write_study(
        temporary_folder(),
        asked,
        name=name,
        title=f"A model of your own ({Path(path).name})",
        source=model.data.fingerprint,
        variants=list(model.recipes),
        batches=sorted({1, asked.batch}),
        max_loss=MAX_FIDELITY_LOSS,
    )
    return StudyRun(
        study,
        study_path,
        RunFolder(Path()),
        quick=quick,
        budget_s=budget_s,
        command=reproducing_command(),
        own=model,
        notes=model.notes,
    )


@contextmanager
def _hushed() -> Iterator[None]:
    """Exporters and loaders log what they skip or try next; what fails is raised, and said once."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def server_run(
    server: OwnServer, asked: Asked, *, quick: bool, budget_s: float | None
) -> ServerRun:
    """The run of a server; its study is written into a folder that goes with the process."""
    program = Path(server.argv[0]).name
    name = study_name(asked.name, program)
    study, path = write_study(
        temporary_folder(),
        asked,
        name=name,
        title=f"A server of your own ({asked.name or program})",
        source=server.fingerprint(),
        variants=[SERVER],
        batches=[1],
    )
    return ServerRun(
        study,
        path,
        RunFolder(Path()),
        quick=quick,
        budget_s=budget_s,
        call=server.call,
        command=reproducing_command(),
        server=server,
    )


def temporary_folder() -> Path:
    """A folder for the files of a study; it goes when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="tonnage-own-")
    _KEPT.append(folder)
    return Path(folder.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def reproducing_command() -> str:
    """The command line of this process, as one types it."""
    return shlex.join(["tonnage", *sys.argv[1:]])


def _body(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"--request {path}: cannot be read ({error.strerror})") from None
