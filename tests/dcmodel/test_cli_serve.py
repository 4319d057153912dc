"""`dcmodel serve` as a process, and what it refuses before it begins."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dcmodel.cli.output import Output
from dcmodel.errors import DcModelError, InvalidRequestError, MissingDependencyError, SetupError
from lmql_backends.lmtp.commands import serve, serve_arguments

TOKEN = "a-long-enough-token"
DEADLINE = 120.0
MAIN = "\nfrom dcmodel.cli import run\nrun()\n"
SLOW = """
import threading, time, dcmodel.registry
def load(self, *arguments, **options):
    print("loading", file=sys.stderr, flush=True)
    time.sleep(600)
import sys
dcmodel.registry.Registry.load = load
"""

BROKEN = """
import dcmodel.registry
from dcmodel.errors import ModelNotFoundError
def load(self, model, *arguments, **options):
    raise ModelNotFoundError(f"{model!r} is not there.", remedy="Look elsewhere.")
dcmodel.registry.Registry.load = load
"""


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    return parser.parse_args(argv)


@contextmanager
def started(*argv: str, before: str = "") -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-c", before + MAIN, "serve", "--port", "0", "--json", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, errors = process.communicate(timeout=DEADLINE)
    return process.returncode, errors


def test_a_server_from_its_first_line_to_its_signal(tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    with started("small=embedded", "--token-file", str(token_file), "--log-format", "json") as process:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        said = json.loads(line)
        assert said["models"] == ["small"]
        assert said["url"] == f"lmtp://127.0.0.1:{said['port']}"
        fields = {"model": "small", "prompt": "3 + 4 =", "max_tokens": 3, "temperature": 0}
        body = json.dumps(fields).encode()
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        asking = urllib.request.Request(f"{said['http_url']}/v1/completions", body, headers)
        with urllib.request.urlopen(asking) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 3
        first = process.stderr.readline()  # it may come after the answer
        process.send_signal(signal.SIGTERM)
        code, errors = ended(process)
    assert code == 0
    lines = [json.loads(line) for line in (first, *errors.splitlines())]
    assert [line["message"].split(":")[0] for line in lines] == ["request", "draining"]
    assert TOKEN not in first + errors


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "stdin"])
def test_a_server_that_still_loads_ends_at_once(how):
    with started("--until-stdin-closes", before=SLOW) as process:
        assert process.stderr.readline() == "loading\n"
        began = time.monotonic()
        if how == "stdin":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, how))
        assert process.wait(DEADLINE) == 0
        assert time.monotonic() - began < 20  # draining may take 30


def test_a_model_that_cannot_be_loaded_is_one_line():
    with started("a=there", "--allow-model", "b=there", before=BROKEN) as process:
        code, errors = ended(process)
    assert (code, errors) == (1, "Error: 'there' is not there. Look elsewhere.\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--host", "0.0.0.0"], "lets other machines use the server"),
        (["--token-file", "/no/such/file"], "--token-file '/no/such/file' cannot be read"),
        (["a=x", "a=y"], "two models have the name 'a'"),
        (["=x"], "names no model"),
        (["--max-body", "0"], "--max-body is 0"),
        (["--max-models", "-1"], "max_models"),
        (["a", "b", "--max-models", "1"], "2 models stay loaded"),
        (["--tls-key", "key.pem"], "--tls-key needs --tls-cert"),
        (["--tls-cert", "/no/such.pem"], "cannot be used"),
        (["--option", "nonsense"], "has no value"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_loaded(argv, message, monkeypatch, capsys):
    monkeypatch.delenv("DCMODEL_TOKEN", raising=False)
    arguments = parsed("serve", "--port", "0", "--backend", "no-such-backend", *argv)
    with pytest.raises(DcModelError, match=message):
        serve.execute(arguments, Output.standard())


def test_start_is_serve():
    assert parsed("start", "--port", "1").execute is parsed("serve").execute


def test_models_have_the_names_that_they_are_given(tmp_path, monkeypatch):
    monkeypatch.delenv("DCMODEL_MODEL", raising=False)
    (tmp_path / "a=b").mkdir()
    folder = str(tmp_path / "a=b")
    arguments = parsed("serve", "x=org/x", "y.gguf", folder, "--allow-model", "z=org/z")
    sources = serve_arguments.sources_of(arguments)
    assert {name: source.is_pinned for name, source in sources.items()} == {
        "x": True,
        "y.gguf": True,
        folder: True,
        "z": False,
    }
    assert sources["x"].open().name == "org/x"
    assert list(serve_arguments.sources_of(parsed("serve"))) == ["embedded"]
    assert list(serve_arguments.sources_of(parsed("serve", "--allow-model", "z"))) == ["z"]


def test_the_token_comes_from_the_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DCMODEL_TOKEN", "from-the-environment")
    assert serve_arguments.settings_of(parsed("serve")).token == "from-the-environment"
    path = tmp_path / "token"
    path.write_text("from-the-file\nsecond line\n")
    assert serve_arguments.settings_of(parsed("serve", "--token-file", str(path))).token == "from-the-file"
    path.write_text("\n")
    with pytest.raises(InvalidRequestError):  # an empty file is no wish to be open to all
        serve_arguments.settings_of(parsed("serve", "--token-file", str(path)))


def test_a_missing_package_is_one_line_with_what_to_type(monkeypatch):
    monkeypatch.setattr(serve_arguments, "_is_installed", lambda name: name not in ("h11", "uvicorn"))
    with pytest.raises(MissingDependencyError) as raised:
        serve.execute(parsed("serve"), Output.standard())
    assert str(raised.value) == (
        'serving needs uvicorn and h11, which are not installed. Run: pip install "dcmodel[serve]"'
    )


def test_a_certificate_serves(tmp_path):
    line = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout {tmp_path}/key.pem"
    command = [*line.split(), "-out", f"{tmp_path}/cert.pem"]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("openssl is not here")
    files = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    assert serve_arguments.tls_of(parsed("serve", *files)) is not None
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(SetupError, match="cannot be used"):
        serve_arguments.tls_of(parsed("serve", *files))
