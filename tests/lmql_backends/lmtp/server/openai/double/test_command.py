"""`dcmodel serve --limits ... --faults ...`"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.commands import serve
from lmql_backends.lmtp.commands.serving_double import double_of
from lmql_backends.lmtp.server.openai.double import OpenAILimits, limits_from

openai = pytest.importorskip("openai")

MAIN = "from dcmodel.cli import run; run()"


def made(*argv: str):
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    return double_of(parser.parse_args(["serve", *argv]))


@pytest.fixture
def file(tmp_path):
    def write(content) -> str:
        path = tmp_path / "given.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_without_its_options_a_server_is_no_double():
    assert made() is None


def test_limits_are_a_presets_name_or_a_file(file):
    assert made("--limits", "openai").limits == OpenAILimits()
    assert made("--limits", "vllm").limits == limits_from({"preset": "vllm"})
    double = made("--limits", file({"preset": "vllm", "max_stops": 2, "rates": {"requests_per_minute": 9}}))
    assert double.limits == limits_from({"preset": "vllm", "max_stops": 2})
    assert double.rates.requests_per_minute == 9


def test_faults_and_rates_alone_leave_the_routes_as_they_are(file):
    plan = file({"faults": [{"fault": "hang"}]})
    double = made("--faults", plan, "--rpm", "60", "--tpm", "600")
    assert double.limits == limits_from({"preset": "open"})
    assert (double.rates.requests_per_minute, double.rates.tokens_per_minute) == (60, 600)
    assert len(double.plan.faults) == 1


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--limits", {"max_stop": 2}, "`max_stop`"),
        ("--limits", {"rates": {"per_minute": 2}}, "rates: .*`per_minute`"),
        ("--limits", {"rates": 2}, "rates: they are 2"),
        ("--limits", [], r"given\.json: it is \[\]"),
        ("--limits", "{", "is not JSON"),
        ("--faults", {"faults": [{"fault": "hangs"}]}, r"faults\[0\]: there is no fault 'hangs'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file, option, content, message):
    with pytest.raises(InvalidRequestError, match=message):
        made(option, file(content))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--limits", "gpt"], "there are no limits 'gpt'. There are openai, vllm"),
        (["--rpm", "0"], "requests_per_minute"),
        (["--limits", "openai", "--workers", "2"], "do not go with workers"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(argv, message):
    with pytest.raises(InvalidRequestError, match=message):
        made(*argv)


def test_a_process_with_limits_and_faults_serves_the_official_client(file):
    plan = file({"faults": [{"fault": "error", "status": 503, "requests": [1]}]})
    command = [sys.executable, "-c", MAIN, "serve", "small=embedded", "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, "--quiet", "--limits", "openai", "--faults", plan, "--rpm", "2", "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            url = json.loads(process.stdout.readline())["http_url"]
            with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                _ask_four_times(client)
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def _ask_four_times(client) -> None:
    def ask(**more):
        return client.completions.create(model="small", prompt="3 + 4 =", max_tokens=2, **more)

    with pytest.raises(openai.InternalServerError):
        ask()
    assert ask().usage.completion_tokens == 2
    with pytest.raises(openai.BadRequestError):
        ask(extra_body={"regex": "[0-9]"})
    with pytest.raises(openai.RateLimitError):
        ask()
