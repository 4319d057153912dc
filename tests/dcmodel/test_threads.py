"""Processes of our own let OpenMP's threads sleep; a library leaves the environment alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMAND = "import sys; from dcmodel.cli import run; sys.argv = ['dcmodel', '--version']; run()"
CHILD = "import sys; from lmql_backends.lmtp.clients.child import main; sys.argv = ['child', '-1']; main()"
SHOWN = "import atexit, os; atexit.register(lambda: print(os.environ.get('OMP_WAIT_POLICY')));"


def policy_after(code: str, **given: str) -> str:
    """Of a process that runs `code`, at its end, however it ends."""
    environ = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", SHOWN + code], env={**environ, **given}, capture_output=True, text=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("code", [COMMAND, CHILD], ids=["command", "child"])
def test_threads_of_a_process_of_ours_wait_without_spinning(code):
    assert policy_after(code) == "PASSIVE"
    assert policy_after(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


def test_a_library_leaves_the_environment_alone():
    assert policy_after("import dcmodel.cli, lmql_backends.lmtp.clients.child") == "None"
