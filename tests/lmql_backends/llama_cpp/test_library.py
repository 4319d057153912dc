"""The library as a whole: what it prints, what it changes, whether others run beside it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

from .conftest import rows_of, span_of


def run(program: str, path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def test_nothing_is_printed_and_the_environment_stays_as_it_was(llama):
    program = (
        "import os, sys; before = dict(os.environ)\n"
        "from dcmodel import LLM\n"
        "with LLM(sys.argv[1]) as llm: llm.generate('a', max_tokens=3)\n"
        "assert dict(os.environ) == before"
    )
    done = run(program, llama[1])
    assert (done.stdout, done.stderr) == ("", "")


def test_no_torch_is_imported(llama):
    program = (
        "import sys\n"
        "from dcmodel import LLM\n"
        "with LLM(sys.argv[1]) as llm: llm.generate('a', regex='[a-z]+', max_tokens=3, temperature=1)\n"
        "print({'torch', 'transformers', 'gguf'} & set(sys.modules))"
    )
    assert run(program, llama[1]).stdout.strip() == "set()"


def test_messages_go_to_logging(open_engine, caplog):
    with caplog.at_level(logging.DEBUG, logger="lmql_backends.llama_cpp.library"):
        open_engine()
    assert any("n_ctx" in record.getMessage() for record in caplog.records)


def test_other_threads_run_while_it_computes(engine):
    """A decode that held the interpreter's lock would let nobody count."""
    sequence = engine.allocate(128)
    counted, is_over = 0, threading.Event()

    def count():
        nonlocal counted
        while not is_over.is_set():
            counted += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(0.3)  # longer than the decode: nobody is made to let go of the lock meanwhile
    thread = threading.Thread(target=count)
    try:
        thread.start()
        is_over.wait(0)
        rows_of(engine, span_of(sequence, [3] * 128, wanted=[127]))
        is_over.set()
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert counted
