"""The outcome of `valid` as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.generations import Verdict
from benchmarks.tables import Table

SHOWN = 20


def verdict_tables(verdict: Verdict) -> list[Table]:
    """The summary, and what is to be listed one by one."""
    summary = Table(
        "HOLDS" if verdict.holds else "DOES NOT HOLD",
        ["", "", "to hold"],
        notes=[*verdict.invalid[:SHOWN], *verdict.mislabelled[:SHOWN], *verdict.hangs[:SHOWN]],
    )
    for name, value, wanted in _lines(verdict):
        summary.add([name, f"{value:,}", wanted], name=name, value=value)
    if verdict.seconds:
        summary.add(["tokens per second, wall", f"{verdict.tokens / verdict.seconds:,.0f}", ""])
    tables = [summary, _listed("refused with a typed error", verdict.refused)]
    tables.append(_listed("not checkable by jsonschema", verdict.not_checkable))
    if verdict.unchecked:
        unchecked = Table("results not checked", ["results", "reason"])
        for reason, count in verdict.unchecked.most_common():
            unchecked.add([str(count), reason[:160]], reason=reason, count=count)
        tables.append(unchecked)
    if verdict.errors:
        kinds = ", ".join(f"{kind} {count}" for kind, count in verdict.error_kinds.most_common())
        errors = Table(f"ended with a typed error: {kinds}", ["error"])
        for text in verdict.errors[:SHOWN]:
            errors.add([text[:200]], error=text)
        tables.append(errors)
    return [table for table in tables if table.rows]


def _lines(verdict: Verdict) -> Sequence[tuple[str, int, str]]:
    return [
        ("schemas", verdict.schemas, ""),
        ("  refused with a typed error", len(verdict.refused), ""),
        ("  not checkable", len(verdict.not_checkable), ""),
        ("generations", verdict.finished + len(verdict.errors) + len(verdict.hangs), ""),
        ("  ended by themselves", verdict.finished - verdict.ran_out, ""),
        ("  ran into max_tokens, and say so", verdict.ran_out, ""),
        ("  typed errors", len(verdict.errors), ""),
        ("checked by jsonschema", verdict.checked, ""),
        ("  not, though the schema can be", verdict.unchecked.total(), ""),
        ("  with a repeated key", verdict.repeated_keys, ""),
        ("  INVALID", len(verdict.invalid), "0"),
        ("say what is not so", len(verdict.mislabelled), "0"),
        ("hangs", len(verdict.hangs), "0"),
        ("output tokens", verdict.tokens, ""),
        ("  forced", verdict.forced, ""),
    ]


def _listed(title: str, items: dict[str, str]) -> Table:
    """Reasons, with how often and for example where."""
    table = Table(title, ["schemas", "for example", "reason"])
    items = {name: reason.replace("\n", " ") for name, reason in items.items()}
    names = {reason: name for name, reason in reversed(items.items())}
    for reason, count in Counter(items.values()).most_common():
        table.add([str(count), names[reason][:50], reason[:140]], reason=reason, count=count)
    return table
