"""Tokenizers of a wanted size: the first ranks of o200k_base where it is at hand, else a made-up one."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
EOS, PAD = "<|endoftext|>", "<|pad|>"
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


def make_tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE with exactly `vocab_size` ids; the last two are end of text and padding."""
    path = DATA / "tokenizers" / "o200k_base.tiktoken.gz"
    size = vocab_size - 2
    if path.exists():
        pattern = json.loads(path.with_name("o200k_base.meta.json").read_text("utf-8"))["pat_str"]
        tokenizer = _from_ranks(_read_ranks(path, size))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer = _made_up(size)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(EOS, special=True), AddedToken(PAD, special=True)])
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"a vocabulary of {tokenizer.get_vocab_size()} came out, not of {vocab_size}")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that `AutoTokenizer` and `dctokenizers.load` read."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "pad_token": PAD}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def _read_ranks(path: Path, size: int) -> list[bytes]:
    with gzip.open(path, "rt", encoding="ascii") as lines:
        tokens = [base64.b64decode(line.split()[0]) for line in itertools.islice(lines, size)]
    if len(tokens) < size:
        raise ValueError(f"{path} has {len(tokens)} ranks, {size} are wanted")
    return tokens


def _from_ranks(tokens: list[bytes]) -> Tokenizer:
    """The merges that give these tokens, in the order of their ranks."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    letters = _byte_letters()

    def text(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = []
    for token in tokens:
        if len(token) > 1:
            left, right = _last_merge(token, ranks)
            merges.append((text(left), text(right)))
    return Tokenizer(models.BPE({text(token): rank for token, rank in ranks.items()}, merges))


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """How BPE puts `token` together from the tokens of lower rank."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def _made_up(size: int) -> Tokenizer:
    """Bytes, pairs of letters, pairs of pairs, and the same after a blank."""
    blank = _byte_letters()[ord(" ")]
    vocabulary = {letter: rank for rank, letter in enumerate(_byte_letters())}
    merges: list[tuple[str, str]] = []
    pairs = ["".join(pair) for pair in itertools.product(LETTERS, repeat=2)]
    words = ((left, right) for left in pairs for right in pairs)
    wanted = itertools.chain(
        ((pair[0], pair[1]) for pair in pairs),
        itertools.chain.from_iterable(((left, right), (blank, left + right)) for left, right in words),
    )
    for left, right in wanted:
        if len(vocabulary) == size:
            break
        vocabulary[left + right] = len(vocabulary)
        merges.append((left, right))
    return Tokenizer(models.BPE(vocabulary, merges))


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
