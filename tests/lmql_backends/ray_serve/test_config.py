"""The Serve config of the repository is one that Serve takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmql_backends.ray_serve.arguments import AppArguments

CONFIG = Path(__file__).parents[3] / "deploy" / "serve_config.yaml"


@pytest.fixture
def config() -> dict:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; Ray brings it")
    return yaml.safe_load(CONFIG.read_text(encoding="utf-8"))


def test_the_args_are_those_of_the_application(config):
    (application,) = config["applications"]
    told = AppArguments.of(application["args"])
    assert told.scale() == (2, 8)
    assert not told.insecure


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_serve_takes_it_and_builds_the_deployments_that_it_names(config):
    pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
    from ray.serve.schema import ServeDeploySchema

    from lmql_backends.ray_serve import app

    schema = ServeDeploySchema.model_validate(config)
    (application,) = schema.applications
    assert application.import_path == "lmql_backends.ray_serve:app"
    bound = app(application.args)
    assert bound._bound_deployment.name == "Ingress"
    assert {deployment.name for deployment in application.deployments} <= {"Engine", "Ingress"}
