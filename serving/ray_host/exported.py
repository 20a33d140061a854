"""The Ray Serve applications of an export; a generated module of three lines names them.

What the Serve configuration beside it says (replicas, queue bounds, logging) overrides
what stands here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving.exported import read_deployment
from serving.ray_host.replica import FRONT_NAME, FrontReplica, ModelReplica


def model_application(folder: Path) -> Any:
    """The model of an export, to be served at ``/v2/models/NAME``. A Serve application."""
    from ray import serve

    given = read_deployment(folder)
    name = given.variant.model_name
    deployment = serve.deployment(
        name=name,
        num_replicas=given.replicas,
        max_ongoing_requests=given.max_ongoing_requests,
        max_queued_requests=given.max_queued_requests,
    )(serve.ingress()(ModelReplica))
    return deployment.bind(
        given.variant.model_dump_json(),
        given.threads,
        given.cell_id,
        None,
        given.max_batch,
        given.batch_wait_ms,
    )


def front_application(folder: Path) -> Any:
    """What answers for the server as a whole, at ``/``. A Serve application."""
    from ray import serve

    name = read_deployment(folder).variant.model_name
    deployment = serve.deployment(name=FRONT_NAME)(serve.ingress()(FrontReplica))
    return deployment.bind({name: name})
