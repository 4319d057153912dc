"""How many tokens a JSON schema forces, and how much faster generation is for it.

The valid values of the sample are walked in each layout and vocabulary: what `Matcher.forced` gives is taken,
other tokens are those of the text. Then the embedded model generates, with forcing and without; the
outputs must be the same. `python -m benchmarks.forced [--quick] [--only NAME ...] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.clock import use_one_thread

use_one_thread()

import numpy as np  # noqa: E402  # the number of threads is read at import
from tqdm import tqdm  # noqa: E402

from benchmarks.forced_speed import speed_table  # noqa: E402
from benchmarks.mask_cases import SAMPLE, VOCABULARIES, Case, is_available, load_cases  # noqa: E402
from benchmarks.tables import Table, write_json  # noqa: E402
from dcmodel.constraint import CompiledConstraint  # noqa: E402
from dcmodel.constraints import JsonSchema  # noqa: E402
from dcmodel.constraints.llg import LlgMatcher  # noqa: E402
from dcmodel.errors import DcModelError  # noqa: E402
from dcmodel.mask import mask_words  # noqa: E402
from dctokenizers import Tokenizer  # noqa: E402

SEPARATORS = {
    "spaced": (", ", ": "),
    "compact": (",", ":"),
    "bounded": (", ", ": "),
    "flexible": (", ", ": "),
}
# Where the text's own tokens are left, this much of the rest is tokenized to find the next one.
AHEAD = 200


class Text:
    """The bytes of a text, and the token that its tokenizer would go on with at any place."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.data = text.encode()
        self._tokenizer = tokenizer
        self._token_at: dict[int, int] = {}
        place = 0
        for token_id in tokenizer.encode(text):
            self._token_at[place] = token_id
            place += len(tokenizer.token_bytes(token_id))

    def token(self, place: int) -> int:
        found = self._token_at.get(place)
        return self._tokenizer.encode_bytes(self.data[place : place + AHEAD])[0] if found is None else found


def walk(compiled: CompiledConstraint, text: Text, tokenizer: Tokenizer, counts: Counter[str]) -> None:
    """Count tokens by how they came about. A text that the schema does not allow counts up to there."""
    matcher = compiled.matcher()
    row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)
    place = 0
    while not matcher.is_finished and place < len(text.data):
        forced = matcher.forced()
        if forced:
            data = tokenizer.decode_bytes(forced, skip_special=False)
            if text.data[place : place + len(data)] != data:
                counts["texts that differ"] += 1
                return
            matcher.advance(forced)
            place += len(data)
            counts["forced"] += len(forced)
            counts["runs"] += 1
            continue
        matcher.fill_mask(row)
        is_single = int(np.bitwise_count(row.view(np.uint32)).sum()) == 1
        # The bytes that must come next: several tokens begin with them.
        known = matcher._engine.compute_ff_bytes() if isinstance(matcher, LlgMatcher) else b""
        token_id = text.token(place)
        if matcher.advance([token_id]) != 1:
            counts["texts refused"] += 1
            return
        data = tokenizer.token_bytes(token_id)
        place += len(data)
        counts["drawn"] += 1
        counts["single"] += is_single
        counts["open"] += bool(known)
        counts["open, nothing more"] += bool(known) and known.startswith(data)


def count(cases: Sequence[Case], tokenizer: Tokenizer, layout: str, title: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for case in tqdm(cases, desc=title, unit="schema"):
        try:
            compiled = JsonSchema(case.schema, whitespace=layout).compile(tokenizer)  # type: ignore[arg-type]
        except DcModelError:
            counts["schemas refused"] += 1
            continue
        for value in case.values:
            text = json.dumps(value, ensure_ascii=False, separators=SEPARATORS[layout])
            try:
                walk(compiled, Text(text, tokenizer), tokenizer, counts)
            except DcModelError as error:
                counts[type(error).__name__] += 1
    return counts


def share_table(vocabularies: Sequence[str], cases: Sequence[Case]) -> Table:
    table = Table(
        f"tokens that the schema forces: {len(cases)} schemas, their valid values",
        (
            "vocabulary",
            "layout",
            "tokens",
            "forced",
            "per run",
            "single",
            "open",
            "nothing more",
            "texts refused",
            "differ",
            "errors",
        ),
        notes=[
            "per run: forced tokens at a time; single: drawn though the mask had one token only",
            "open: the next bytes are determined, but several tokens begin with them (some are longer)",
            "nothing more: of those, the drawn token held determined bytes only",
        ],
    )
    for vocabulary in vocabularies:
        tokenizer = VOCABULARIES[vocabulary]()
        for layout in SEPARATORS:
            counts = count(cases, tokenizer, layout, f"forced {vocabulary} {layout}")
            tokens = counts["forced"] + counts["drawn"]
            shares = [counts[key] / tokens for key in ("single", "open", "open, nothing more")]
            errors = sum(number for key, number in counts.items() if key.endswith("Error"))
            table.add(
                [
                    vocabulary,
                    layout,
                    str(tokens),
                    f"{counts['forced'] / tokens:.1%}",
                    f"{counts['forced'] / max(1, counts['runs']):.2f}",
                    *(f"{share:.2%}" for share in shares),
                    *(str(counts[key]) for key in ("texts refused", "texts that differ")),
                    str(errors),
                ],
                vocabulary=vocabulary,
                layout=layout,
                counts=dict(counts),
            )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the schemas")
    parser.add_argument("--only", nargs="+", choices=["share", "speed"], default=["share", "speed"])
    parser.add_argument("--vocabulary", nargs="+", choices=[*VOCABULARIES], default=[*VOCABULARIES])
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    options = parser.parse_args()
    if not is_available():
        print(f"Error: {SAMPLE} is not there.", file=sys.stderr)
        return 1
    cases = load_cases(5 if options.quick else 1)
    tables = []
    if "share" in options.only:
        tables.append(share_table(options.vocabulary, cases))
        print(tables[-1].text(), flush=True)
    if "speed" in options.only:
        tables.append(speed_table(cases[::3], repeats=2 if options.quick else 5))
        print(tables[-1].text(), flush=True)
    if options.json:
        write_json(options.json, tables)
    return 0 if all(record.get("met", True) for table in tables for record in table.records) else 1


if __name__ == "__main__":
    sys.exit(main())
