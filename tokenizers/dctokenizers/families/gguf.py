"""Vocabularies inside GGUF files, encoded with Hugging Face's library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dctokenizers.byte_level import piece_bytes
from dctokenizers.errors import TokenizerError
from dctokenizers.families.gguf_file import read_metadata
from dctokenizers.families.gguf_pre import PRE_TOKENIZERS
from dctokenizers.families.gguf_types import TokenType, end_ids, swallows_blanks, types_by_name
from dctokenizers.families.hf_codec import HuggingFaceCodec
from dctokenizers.probe import check
from dctokenizers.tokenizer import Tokenizer
from dctokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    import tokenizers

_SPACE = "\u2581"
_PREFIX = "tokenizer.ggml."


@dataclass(frozen=True, slots=True)
class GGUFVocabulary:
    """The tokenizer.ggml.* fields that matter here."""

    path: str
    name: str
    model: str
    pre: str
    pieces: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    settings: dict[str, Any]

    def ids_of(self, *types: TokenType) -> list[int]:
        """Ids of the given types, ascending."""
        return [i for i, kind in enumerate(self.types) if kind in types]

    def first_ids(self) -> dict[str, int]:
        """The id of each piece; where a piece occurs twice, the lower one."""
        return {piece: i for i, piece in reversed(list(enumerate(self.pieces)))}


def from_gguf(path: str | Path, *, name: str | None = None) -> Tokenizer:
    """A tokenizer from a GGUF file: the models llama (SentencePiece), gpt2 (BPE) and t5 (Unigram).

    The ids that end a text are the file's eos, eot and eom ids and those tokens that llama.cpp takes for
    ends by their names.
    """
    fields = _read(Path(path))
    builders: dict[str, Callable[[GGUFVocabulary], tokenizers.Tokenizer]] = {
        "llama": _sentencepiece,
        "gpt2": _byte_level,
        "t5": _unigram,
    }
    if fields.model not in builders:
        raise TokenizerError(
            f"{path} has a vocabulary of the kind {fields.model!r}; {', '.join(builders)} can be read."
        )
    codec = HuggingFaceCodec(_with_added(builders[fields.model](fields), fields))
    bos = fields.settings.get("bos_token_id")
    default_bos = fields.model == "llama" or (fields.model == "gpt2" and PRE_TOKENIZERS[fields.pre].adds_bos)
    adds_bos = fields.settings.get("add_bos_token", default_bos)
    return check(
        Tokenizer(
            name=name or str(path),
            vocabulary=_vocabulary(fields),
            codec=codec,
            bos_token_id=bos,
            eos_token_ids=_ends(fields),
            prompt_token_ids=[] if bos is None or not adds_bos else [bos],
        )
    )


def _read(path: Path) -> GGUFVocabulary:
    fields = read_metadata(path, prefix="")
    found = {key.removeprefix(_PREFIX): value for key, value in fields.items() if key.startswith(_PREFIX)}
    if "model" not in found or "tokens" not in found:
        raise TokenizerError(f"{path} has no vocabulary.")
    pieces = found.pop("tokens")
    types = found.pop("token_type", [int(TokenType.NORMAL)] * len(pieces))
    return GGUFVocabulary(
        path=str(path),
        name=str(fields.get("general.name", "")),
        model=found.pop("model"),
        pre=found.pop("pre", "default"),
        pieces=pieces,
        types=types_by_name(pieces, types),
        scores=found.pop("scores", []),
        merges=found.pop("merges", []),
        settings=found,
    )


def _vocabulary(fields: GGUFVocabulary) -> Vocabulary:
    special = fields.ids_of(TokenType.UNKNOWN, TokenType.CONTROL)
    byte_level = fields.model == "gpt2"
    tokens = []
    for piece, kind in zip(fields.pieces, fields.types, strict=True):
        if kind in (TokenType.UNKNOWN, TokenType.CONTROL):
            tokens.append(piece.encode())
        elif kind == TokenType.UNUSED:
            tokens.append(b"")
        elif kind == TokenType.BYTE:
            tokens.append(bytes([int(piece[3:5], 16)]))
        elif byte_level:
            tokens.append(piece_bytes(piece) if kind == TokenType.NORMAL else piece.encode())
        else:
            tokens.append(piece.replace(_SPACE, " ").encode())
    return Vocabulary(tokens, special)


def _ends(fields: GGUFVocabulary) -> list[int]:
    used = {piece: i for piece, i in fields.first_ids().items() if fields.types[i] != TokenType.UNUSED}
    kinds = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
    found = end_ids(used, {kind: fields.settings.get(f"{kind}_token_id") for kind in kinds})
    return [i for i in found if 0 <= i < len(fields.pieces)]


def _with_added(own: tokenizers.Tokenizer, fields: GGUFVocabulary) -> tokenizers.Tokenizer:
    from tokenizers import AddedToken

    def added(token_id: int, *, special: bool) -> AddedToken:
        piece = fields.pieces[token_id]
        swallows = swallows_blanks(fields.name, piece)
        return AddedToken(piece, special=special, normalized=False, rstrip=swallows)

    special = fields.ids_of(TokenType.UNKNOWN, TokenType.CONTROL)
    own.add_special_tokens([added(i, special=True) for i in special])
    own.add_tokens([added(i, special=False) for i in fields.ids_of(TokenType.USER_DEFINED)])
    return own


def _byte_level(fields: GGUFVocabulary) -> tokenizers.Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    kind = PRE_TOKENIZERS.get(fields.pre)
    if kind is None:
        raise TokenizerError(
            f"{fields.path} cuts text in the way {fields.pre!r} (tokenizer.ggml.pre), which is not known. "
            f"Known are: {', '.join(sorted(PRE_TOKENIZERS))}. Load the model's tokenizer.json instead."
        )
    merges = [_split_merge(merge) for merge in fields.merges]
    own = Tokenizer(models.BPE(vocab=fields.first_ids(), merges=merges, ignore_merges=kind.ignore_merges))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in kind.patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    own.decoder = decoders.ByteLevel()
    return own


def _split_merge(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _sentencepiece(fields: GGUFVocabulary) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocab = fields.first_ids()
    own = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges_by_score(fields, vocab),
            unk_token=fields.pieces[_unknown_id(fields)],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    marks_spaces = normalizers.Replace(" ", _SPACE)
    prefixed = fields.settings.get("add_space_prefix", True)
    own.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), marks_spaces] if prefixed else [marks_spaces]
    )
    own.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return own


def _merges_by_score(fields: GGUFVocabulary, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """All ways to make a piece of two, in the order in which SentencePiece prefers the pieces."""
    ranked = []
    for token_id in fields.ids_of(TokenType.NORMAL):
        piece = fields.pieces[token_id]
        ways = [
            (vocab[piece[:cut]], vocab[piece[cut:]], cut)
            for cut in range(1, len(piece))
            if piece[:cut] in vocab and piece[cut:] in vocab
        ]
        ranked += [(-fields.scores[token_id], piece, cut) for _, _, cut in sorted(ways)]
    ranked.sort(key=lambda way: way[0])
    return [(piece[:cut], piece[cut:]) for _, piece, cut in ranked]


def _unigram(fields: GGUFVocabulary) -> tokenizers.Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    scored = list(zip(fields.pieces, map(float, fields.scores), strict=True))
    own = Tokenizer(models.Unigram(scored, unk_id=_unknown_id(fields), byte_fallback=False))
    steps: list[Any] = []
    charsmap = fields.settings.get("precompiled_charsmap")
    if charsmap:
        steps.append(normalizers.Precompiled(bytes(charsmap)))
    if fields.settings.get("remove_extra_whitespaces", False):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    own.normalizer = normalizers.Sequence(steps)
    scheme = "always" if fields.settings.get("add_space_prefix", True) else "never"
    own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    own.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return own


def _unknown_id(fields: GGUFVocabulary) -> int:
    unknown = fields.settings.get("unknown_token_id")
    if unknown is None:
        unknown = next(iter(fields.ids_of(TokenType.UNKNOWN)), 0)
    return int(unknown)
