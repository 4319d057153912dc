"""What token healing, canonical tokens, forced tokens and the layout of JSON do to accuracy.

The embedded model answers held-out questions whose prompts end as trained, with a blank, or with half a
word; each switch is set both ways. And, without a model: how often the tokens of a whole text can still
come after a cut. `python -m benchmarks.boundaries [--quick] [--count N] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

from benchmarks.clock import use_one_thread

use_one_thread()

from tqdm import tqdm  # noqa: E402  # the number of threads is read at import

from benchmarks.boundary_tasks import AS_IS, HALF, Item, Task, Whitespace, extraction_items, run, share, tasks  # noqa: E402
from benchmarks.clock import cpu_seconds  # noqa: E402
from benchmarks.forced_speed import Unforced  # noqa: E402
from benchmarks.mask_cases import VOCABULARIES, is_available  # noqa: E402
from benchmarks.tables import Table, write_json  # noqa: E402
from dcmodel.constraints.canonical import CanonicalMatcher  # noqa: E402
from dcmodel.constraints.healing import heal  # noqa: E402
from dcmodel.llm import LLM  # noqa: E402
from dcmodel.types import Completion  # noqa: E402
from dctokenizers import Tokenizer  # noqa: E402
from lmql_backends.tiny.corpus import heldout  # noqa: E402

LAYOUTS: tuple[Whitespace, ...] = ("spaced", "compact", "bounded")
BAR = "{desc:24}{percentage:3.0f}%|{bar:24}| {n}/{total} [{elapsed}]"


def healing_table(llm: LLM, count: int) -> Table:
    """Accuracy with healing on and off, for each ending."""
    table = Table(
        "token healing (share of right answers)",
        ("task", "prompt ends", "items", "healed", "not healed", "answers that differ"),
    )
    for task in tqdm([task for task in tasks(count) if _makes_sense(task)], desc="healing", bar_format=BAR):
        on, off = run(llm, task, heal=True), run(llm, task, heal=False)
        _add(table, task, share(task, on), share(task, off), _differing(on, off))
    table.notes.append('greedy; half a word: ` pos`, ` {"na`; the rule is about what follows the prompt')
    return table


def canonical_table(llm: LLM, count: int) -> Table:
    """Accuracy, refused tokens and time with canonical tokens and without."""
    table = Table(
        "canonical tokens",
        ("task", "items", "canonical", "any", "answers that differ", "refused per 1000", "CPU"),
    )
    for task in tqdm(
        [task for task in tasks(count) if task.ending == AS_IS], desc="canonical", bar_format=BAR
    ):
        run(llm, task)  # compiled
        before, off = cpu_seconds(partial(run, llm, task))
        with patch.object(CanonicalMatcher, "advance", _counted(refused := [0])):
            after, on = cpu_seconds(partial(run, llm, task, canonical=True))
        seconds = after / max(before, 1e-9)
        tokens = sum(len(answer.token_ids) for answer in on)
        figures = (
            share(task, on),
            share(task, off),
            _differing(on, off),
            1000 * refused[0] / tokens,
            seconds,
        )
        table.add(
            (task.name, str(count), *(f"{value:.1%}" for value in figures[:2]), str(figures[2]),
             f"{figures[3]:.1f}", f"{figures[4]:.2f}x"),
            **dict(zip(("canonical", "any", "differing", "refused", "cpu"), figures, strict=True)),
            task=task.name,
        )  # fmt: skip
    return table


def _counted(refused: list[int]) -> Callable[[CanonicalMatcher, Sequence[int]], int]:
    """`CanonicalMatcher.advance`, which counts what it refuses."""
    advance = CanonicalMatcher.advance

    def counted(matcher: CanonicalMatcher, token_ids: Sequence[int]) -> int:
        taken = advance(matcher, token_ids)
        refused[0] += taken < len(token_ids)
        return taken

    return counted


def forced_table(llm: LLM, count: int) -> Table:
    """Whether forcing changes answers."""
    table = Table("forced tokens", ("task", "prompt ends", "items", "forced", "drawn", "answers that differ"))
    chosen = [task for task in tasks(count) if task.name.endswith("rule") and task.ending != HALF]
    for task in tqdm(chosen, desc="forced", bar_format=BAR):
        on, off = run(llm, task), run(llm, _changed(task, Unforced))
        _add(table, task, share(task, on), share(task, off), _differing(on, off))
    return table


def layout_table(llm: LLM, count: int) -> Table:
    """Extraction with each layout of JSON."""
    table = Table("layout of JSON", ("layout", "items", "right", "tokens per answer"))
    for layout in tqdm(LAYOUTS, desc="layout", bar_format=BAR):
        task = Task("extraction", AS_IS, extraction_items(count, AS_IS, False, layout))
        answers = run(llm, task)
        right, tokens = share(task, answers), sum(len(a.token_ids) for a in answers) / len(answers)
        table.add(
            (layout, str(count), f"{right:.1%}", f"{tokens:.1f}"), layout=layout, right=right, tokens=tokens
        )
    return table


def reach_table(embedded: Tokenizer, cuts: int) -> Table:
    """How often the whole text's own tokens can still come after a cut."""
    table = Table(
        "cuts after which the tokens of the whole text can still come",
        ("vocabulary", "cut", "healed", "not healed", "tokens back"),
    )
    loaders: dict[str, Callable[[], Tokenizer]] = {"embedded": lambda: embedded}
    loaders |= {name: load for name, load in VOCABULARIES.items() if is_available()}
    for name in tqdm(loaders, desc="cuts", bar_format=BAR):
        tokenizer = loaders[name]()
        for where in ("inside a word", "after a word", "after a blank"):
            rng = random.Random(7)
            healed = plain = back = 0
            for _ in range(cuts):
                text, place = _cut(rng, where)
                whole = tuple(tokenizer.encode_prompt(text))
                ids = tuple(tokenizer.encode_prompt(text[:place]))
                kept, _text = heal(tokenizer, ids)
                plain += whole[: len(ids)] == ids
                healed += whole[: len(kept)] == kept
                back += len(ids) - len(kept)
            figures = (healed / cuts, plain / cuts, back / cuts)
            table.add(
                (name, where, f"{figures[0]:.1%}", f"{figures[1]:.1%}", f"{figures[2]:.2f}"),
                vocabulary=name, cut=where, healed=figures[0], not_healed=figures[1], back=figures[2],
            )  # fmt: skip
    return table


def _cut(rng: random.Random, where: str) -> tuple[str, int]:
    """A text of the held-out reviews and a place in it."""
    while True:
        text = rng.choice(_TEXTS)
        place = rng.randrange(8, len(text) - 8)
        before, after = text[place - 1], text[place]
        is_inside = before.isalpha() and after.isalpha()
        if {"inside a word": is_inside, "after a word": before.isalpha() and not after.isalpha()}.get(
            where, before == " "
        ):
            return text, place


_TEXTS = [item.prompt for item in heldout.reviews(60)]


def _makes_sense(task: Task) -> bool:
    return not (task.ending == HALF and task.name == "extraction, rule")


def _changed(task: Task, change: Callable[..., Unforced]) -> Task:
    items = [Item(i.prompt, i.given, change(i.rule), i.is_right) for i in task.items]
    return Task(task.name, task.ending, items)


def _differing(one: Sequence[Completion], two: Sequence[Completion]) -> int:
    return sum(a.text != b.text for a, b in zip(one, two, strict=True))


def _add(table: Table, task: Task, on: float, off: float, differing: int) -> None:
    table.add(
        (task.name, task.ending, str(len(task.items)), f"{on:.1%}", f"{off:.1%}", str(differing)),
        task=task.name, ending=task.ending, items=len(task.items), on=on, off=off, differing=differing,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few items")
    parser.add_argument("--count", type=int, default=200, help="items per task (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the tables there too")
    options = parser.parse_args(arguments)
    count = 12 if options.quick else options.count
    with LLM() as llm:
        tables = [reach_table(llm.tokenizer, 10 * count)]
        tables += [make(llm, count) for make in (healing_table, canonical_table, forced_table, layout_table)]
    for table in tables:
        sys.stdout.write(table.text() + "\n")
    if options.json:
        write_json(options.json, tables, count=count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
