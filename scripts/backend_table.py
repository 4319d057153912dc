#!/usr/bin/env python3
"""The README's table of backends and docs/table.md, made from docs/conformance.json: never by hand.

    python scripts/backend_table.py                   # write both
    python scripts/backend_table.py --check           # exit with 1 where they are not what the record says
    python scripts/backend_table.py --run             # run the conformance suite on every backend first
    python scripts/backend_table.py --run fake vllm   # or on these

vLLM lives in an environment of its own (`.venv-vllm`, see `make test-vllm`); a backend whose environment is
not there keeps what an earlier run recorded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "conformance.json"
README = ROOT / "README.md"
DETAILS = ROOT / "docs" / "table.md"
BEGIN = "<!-- made by `make table` from docs/conformance.json: do not edit -->"
END = "<!-- end of what `make table` made -->"

FEATURES = {
    "generate": "generation",
    "score": "scores of given texts",
    "masks": "a mask for each step",
    "constraints": "constraints",
    "sessions": "sessions and forks",
    "lora": "LoRA adapters",
    "streaming": "streaming, resuming",
    "cancel": "cancelling",
}
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("random", "transformers"),
    "llama.cpp": ("random-gguf", "llama_cpp"),
    "vLLM": ("vllm",),
    "OpenAI-compatible": ("openai",),
    "LMTP websocket": ("lmtp",),
    "LMTP process": ("process",),
    "LMTP in process": ("in-process",),
    "Replicate": ("replicate",),
}
"""Column -> the backends of the suite that stand for it."""
MODELS = {
    "random": "a small random Llama",
    "transformers": "the embedded model",
    "random-gguf": "a small random Llama",
    "llama_cpp": "the embedded model, KV in float32",
    "vllm": "the embedded model",
    "openai": "the tests' fake engine behind our own OpenAI routes, an endpoint that keeps nothing back "
    "(a probe finds out what another one can do)",
    "lmtp": "the tests' fake engine behind our server",
    "process": "the tests' fake engine in a child process",
    "in-process": "the tests' fake engine",
    "replicate": "the tests' fake engine behind a stand-in for Replicate's API",
}
"""What was asked: backend of the suite -> model. The fake engine's logits are a closed form."""
INTERPRETERS = {"vllm": ROOT / ".venv-vllm" / "bin" / "python"}
INTRODUCTION = f"""\
{BEGIN}

# What the conformance suite found
`pytest tests/conformance` holds every backend against the same tests. `make table` runs it, records what it
finds in [conformance.json](conformance.json), and makes the README's table and this page of that record. A
cell says *yes* if all of its tests passed. *Within limits*: they passed, but for those that need something
that the backend declares not to have; that it refuses such requests, or marks their results, is a test,
too."""


@dataclass(frozen=True)
class Cell:
    """What the tests of one feature found on one backend."""

    passed: int
    failed: int
    limits: Mapping[str, str]
    """Declared limits that left tests out, and why."""

    def shown(self, link: str) -> str:
        if self.failed:
            return f"**{self.failed} of {self.passed + self.failed} tests fail**"
        if not self.passed:
            return f"no: {'; '.join(self.limits.values())}" if self.limits else "not run"
        return f"[within limits]({link})" if self.limits else "yes"


def cell(record: Mapping[str, Any], cases: Iterable[str], feature: str) -> Cell:
    """The tests marked with `feature`, over all cases of a column."""
    passed = failed = 0
    limits: dict[str, str] = {}
    for name in cases:
        case = record["cases"].get(name, {})
        for test, outcome in case.get("outcomes", {}).items():
            if feature in record["tests"].get(test, ()):
                passed += outcome.get("passed", 0)
                failed += outcome.get("failed", 0)
                limits |= {limit: case["limits"][limit] for limit in outcome.get("limited", ())}
    return Cell(passed, failed, dict(sorted(limits.items())))


def table(record: Mapping[str, Any], folder: str = "docs/") -> str:
    """The table in Markdown; its links lead into docs/table.md, seen from the README."""
    lines = [row(["", *COLUMNS]), row(["---"] * (len(COLUMNS) + 1))]
    for feature, title in FEATURES.items():
        shown = (
            cell(record, cases, feature).shown(f"{folder}table.md#{anchor(column)}")
            for column, cases in COLUMNS.items()
        )
        lines.append(row([title, *shown]))
    return "\n".join(lines)


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def anchor(title: str) -> str:
    """How GitHub names a heading's place."""
    kept = (character for character in title.lower() if character.isalnum() or character in " -_")
    return "".join(kept).replace(" ", "-")


def details(record: Mapping[str, Any]) -> str:
    """docs/table.md: when and with what each column was run, and its limits in words."""
    parts = [INTRODUCTION]
    for column, cases in COLUMNS.items():
        parts += ["", f"## {column}", *described(record, cases)]
    return "\n".join([*parts, "", END, ""])


def described(record: Mapping[str, Any], cases: Iterable[str]) -> Iterable[str]:
    known = [(name, record["cases"][name]) for name in cases if name in record["cases"]]
    if not known:
        yield "Not run yet."
        return
    for name, case in known:
        outcomes = case["outcomes"].values()
        counts = {kind: sum(outcome.get(kind, 0) for outcome in outcomes) for kind in ("passed", "failed")}
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        libraries = ", ".join(f"{library} {version}" for library, version in sorted(case["versions"].items()))
        yield f"`--backend {name}`, {case['date']}: {counts['passed']} tests passed{failed}; {libraries}."
        yield f"The model: {MODELS[name]}."
        yield ""
    limits = {limit: reason for _, case in known for limit, reason in case["limits"].items()}
    for limit, reason in sorted(limits.items()):
        touched = [
            title for feature, title in FEATURES.items() if limit in cell(record, cases, feature).limits
        ]
        yield f"- `{limit}`: {reason}" + (f" (of: {', '.join(touched)})" if touched else "")
    if not limits:
        yield "No limits."


def inserted(readme: str, made: str) -> str:
    """The README with `made` between the two markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"Error: README.md lacks the lines {BEGIN!r} and {END!r}.")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def files(record: Mapping[str, Any]) -> dict[Path, str]:
    """What the files of the repository should hold."""
    return {README: inserted(README.read_text("utf-8"), table(record)), DETAILS: details(record)}


def run_suite(cases: Sequence[str]) -> bool:
    """Record a run of each case that can run here; whether all passed."""
    good = True
    for case in cases:
        python = INTERPRETERS.get(case, Path(sys.executable))
        if not python.exists():
            say(f"{case} is left out: there is no {python.relative_to(ROOT)}.")
            continue
        say(f"The conformance suite on {case}:")
        command = [python, "-m", "pytest", "-q", "tests/conformance", "--backend", case, "--record", RECORD]
        good &= subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    return good


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the table of backends from docs/conformance.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 on a difference")
    parser.add_argument("--run", metavar="CASE", nargs="*", help="run these backends first; none named: all")
    arguments = parser.parse_args(argv)
    good = True
    if arguments.run is not None:
        good = run_suite(arguments.run or [case for cases in COLUMNS.values() for case in cases])
    wanted = files(json.loads(RECORD.read_text("utf-8")))
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if arguments.check:
            say(f"{path.relative_to(ROOT)} is not what the record says: make table")
        else:
            path.write_text(wanted[path], "utf-8")
    return int(not good or (arguments.check and bool(stale)))


if __name__ == "__main__":
    sys.exit(main())
