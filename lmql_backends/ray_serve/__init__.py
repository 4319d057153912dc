"""More than one machine: the LMTP and OpenAI-compatible server as an application of Ray Serve.

``import_path: lmql_backends.ray_serve:app`` in a Serve config (deploy/serve_config.yaml), or
``dcmodel serve MODEL --ray``. Engine replicas run the model; ingress replicas run our server with a balancer
over them, so that streams are routed one by one and outlive the replica that they began on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application


def app(args: dict[str, Any]) -> Application:
    """The builder that Serve calls with the ``args`` of its config: the fields of `AppArguments`.

    Raises `InvalidRequestError` for what they cannot be.
    """
    from lmql_backends.ray_serve.application import build
    from lmql_backends.ray_serve.arguments import AppArguments

    return build(AppArguments.of(args))
