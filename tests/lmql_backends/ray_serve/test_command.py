"""`dcmodel serve --ray`: what it refuses, what it makes of its options, and the whole of it as a process."""

from __future__ import annotations

import argparse
import io
import json
import os
import secrets
import signal
import subprocess
import sys

import openai
import psutil
import pytest

from dcmodel.cli.output import Output
from dcmodel.errors import InvalidRequestError, MissingDependencyError
from lmql_backends.lmtp.commands import serve, serving_ray
from lmql_backends.ray_serve import command

TOKEN = "a-token-of-the-tests"


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    return parser.parse_args(["serve", *argv])


def test_options_become_the_applications_arguments():
    told = command.arguments_of(
        parsed(
            *("chat=org/model", "--ray", "--autoscale", "1:4", "--gpus", "0.5", "--option", "n_threads=4"),
            *("--dtype", "float32", "--drain-seconds", "7", "--ingress-replicas", "2"),
            *("--adapter", "chat:law=path/to/law"),
        )
    )
    assert (told.model, told.name, told.scale(), told.gpus) == ("org/model", "chat", (1, 4), 0.5)
    assert (told.options, told.dtype, told.drain_seconds) == ({"n_threads": 4}, "float32", 7.0)
    assert told.adapters == {"law": "path/to/law"}
    assert (told.ingress_replicas, told.host) == (2, "127.0.0.1")


def test_several_models_are_several_applications():
    with pytest.raises(InvalidRequestError, match="has one model"):
        command.arguments_of(parsed("a=org/a", "b=org/b", "--ray"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--replicas", "2"), "--replicas is for Ray"),
        (("--ray", "--workers", "2"), "--workers does not go with --ray"),
        (("--ray", "--tls-cert", "c.pem"), "--tls-cert does not go with --ray"),
        (("--ray", "--allow-model", "org/a"), "--allow-model does not go with --ray"),
    ],
)
def test_options_that_mean_nothing_are_refused(argv, message):
    with pytest.raises(InvalidRequestError, match=message):
        serving_ray.wants_ray(parsed(*argv))


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(serving_ray.metadata, "entry_points", lambda group: ())
    output = Output(out=io.StringIO(), err=io.StringIO())
    with pytest.raises(MissingDependencyError, match=r"dcmodel\[ray\]"):
        serving_ray.serve_ray(parsed("--ray"), output)


@pytest.mark.timeout(280)
def test_it_serves_until_a_signal_and_leaves_nothing_behind(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
    environment = {
        **os.environ,
        "DCMODEL_TOKEN": TOKEN,
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    argv = [sys.executable, "-m", "dcmodel", "serve", "--ray", "--replicas", "2", "--cpus", "0.5", "--quiet"]
    process = subprocess.Popen(
        [*argv, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    started: list[psutil.Process] = []
    try:
        said = next((line for line in process.stdout if line.startswith("{")), None)
        assert said is not None
        announced = json.loads(said)
        started = psutil.Process(process.pid).children(recursive=True)
        url = f"{announced['http_url']}/v1"
        asked = {"model": announced["models"][0], "prompt": "3 + 4 =", "max_tokens": 2, "temperature": 0.0}
        with openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0) as client:
            assert client.completions.create(**asked).choices[0].text.strip() == "7"
        with (
            openai.OpenAI(base_url=url, api_key="another-token", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.completions.create(**asked)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        _, alive = psutil.wait_procs(started, timeout=20.0)
        assert not alive
    finally:
        for each in (process, *started):
            if each.pid and psutil.pid_exists(each.pid):
                each.kill()
        process.wait()
        process.stdout.close()
