"""Helper processes that compile on trial: started when needed, ended at a limit or with this process."""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

import llguidance

from dcmodel.errors import InvalidConstraintError

logger = logging.getLogger(__name__)

TRIAL_SECONDS = 10.0
"""CPU time that compiling, and the first steps of a text, may take."""
TRIAL_MEGABYTES = 1024
"""Memory that they may take."""
CLOCK_FACTOR = 4.0
"""Other processes may hold a trial up: on the clock it may take this many times as long."""
START_SECONDS = 10.0
"""On the clock, a new helper may take this long on top."""
MAX_HELPERS = 4
"""So many trials run side by side; further ones wait."""
HELPER = Path(__file__).with_name("helper.py")

REMEDY = "Put alternatives and repeats into terminals, and shorten chains of rules and repeat counts."


def check_in_child(
    grammar: str,
    *,
    seconds: float = TRIAL_SECONDS,
    megabytes: int = TRIAL_MEGABYTES,
    what: str = "grammar",
) -> None:
    """See that `grammar` (as `LLMatcher.grammar_from_...` gives it) compiles within these limits.

    It is compiled in a helper process over bytes, its first mask and forced text are computed, and a few
    short texts are walked. What the engine says against the grammar itself is left to the caller's own
    compiling. Blocks for milliseconds, at most for `seconds` of CPU time; called from any thread. Raises
    `InvalidConstraintError`, which names `what`, at a limit. Where no process can be started, nothing is
    checked.
    """
    try:
        failure = _pool(os.getpid()).run(
            {"grammar": grammar, "seconds": seconds, "megabytes": megabytes},
            seconds * CLOCK_FACTOR + START_SECONDS,
        )
    except _NoHelperError as error:
        logger.warning("constraints are compiled without a trial: %s", error)
        return
    if failure == "time":
        raise InvalidConstraintError(f"the {what} took more than {seconds:g} s to compile.", remedy=REMEDY)
    if failure == "memory":
        raise InvalidConstraintError(f"the {what} took more than {megabytes} MB to compile.", remedy=REMEDY)
    if failure:
        raise InvalidConstraintError(f"the {what} makes the mask engine crash ({failure}).", remedy=REMEDY)


class _NoHelperError(Exception):
    """No helper process can be started here."""


class _Helper:
    """One helper process; used by one thread at a time."""

    def __init__(self) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise _NoHelperError("this program is not run by a Python interpreter of its own")
        # -P: the helper's folder must not hide modules of the same names.
        command = [sys.executable, "-P", str(HELPER), str(Path(llguidance.__file__).parents[1])]
        # In a process group of its own a terminal's interrupt does not reach it.
        options: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                **options,
            )
        except OSError as error:
            raise _NoHelperError(str(error)) from error

    def run(self, job: Mapping[str, Any], clock_seconds: float) -> tuple[str, bool]:
        """What went wrong (nothing, ``time``, ``memory``, or a signal's name), and whether it is alive."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(clock_seconds, end)
        timer.daemon = True
        timer.start()
        try:
            answer = self._ask(json.dumps(job))
        finally:
            timer.cancel()
        if answer:
            told = json.loads(answer)
            return told["failure"], not told["last"]
        return "time" if late.is_set() else self._why_ended(), False

    def close(self) -> None:
        """End it, whatever it does, and wait for its end."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                cast(IO[str], pipe).close()
            except OSError:  # what was not written yet has no reader now
                continue
        self._process.wait()

    def _ask(self, line: str) -> str:
        try:
            cast(IO[str], self._process.stdin).write(line + "\n")
            cast(IO[str], self._process.stdin).flush()
        except OSError:
            return ""
        return cast(IO[str], self._process.stdout).readline()

    def _why_ended(self) -> str:
        code = self._process.wait()
        if 0 <= code <= 2:  # the interpreter's own: it could not even begin
            raise _NoHelperError(f"the helper ended with code {code}")
        if code > 2:  # where there are no signals
            return f"exit code {code}"
        name = signal.Signals(-code).name
        # Rust aborts where memory cannot be had; the system kills where there is none.
        return {"SIGPROF": "time", "SIGABRT": "memory", "SIGKILL": "memory"}.get(name, name)


class _Pool:
    """Helpers of this process. One that is idle is kept; at most `MAX_HELPERS` run."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(MAX_HELPERS)
        self._lock = threading.Lock()
        self._idle: _Helper | None = None
        self._process_id = os.getpid()
        atexit.register(self.close)

    def run(self, job: Mapping[str, Any], clock_seconds: float) -> str:
        with self._places:
            helper = self._take() or _Helper()
            is_alive = False
            try:
                failure, is_alive = helper.run(job, clock_seconds)
            finally:
                surplus = self._put(helper) if is_alive else helper
                if surplus is not None:
                    surplus.close()
            return failure

    def close(self) -> None:
        """End the idle helper; the others end with their jobs, or with this process's pipes."""
        # A forked process inherits this, and ends nothing that is its parent's.
        helper = self._take() if os.getpid() == self._process_id else None
        if helper is not None:
            helper.close()

    def _take(self) -> _Helper | None:
        with self._lock:
            helper, self._idle = self._idle, None
            return helper

    def _put(self, helper: _Helper) -> _Helper | None:
        """Keep it for the next job; what has to be closed instead."""
        with self._lock:
            helper_before, self._idle = self._idle, helper
            return helper_before


@cache
def _pool(process_id: int) -> _Pool:
    # By process: after a fork the pipes belong to the parent's helpers.
    return _Pool()
