"""Tokenizers to test with: small ones trained here, and real ones from the shared data folder."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import dctokenizers
from dctokenizers import Tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
GGUF_NAMES = ["falcon", "gpt-2", "llama-spm", "phi-3", "starcoder"]
TIKTOKEN_NAMES = ["cl100k_base", "o200k_base", "r50k_base"]
REAL_FILES = [
    *(f"ggml-vocab-{name}.gguf" for name in GGUF_NAMES),
    *(f"{name}.tiktoken.gz" for name in TIKTOKEN_NAMES),
    "mistral_v1_32k.model",
    "mistral_v3_32k.model",
    "tekken.json",
]
SPACE = "\u2581"
CORPUS = [
    "The cat sat on the mat, and the dog sat on the cat.",
    'def f(x):\n    return {"name": "value", "list": [1, 2, 3]}\n',
    "Hello world! Hello there, how are you today? I am fine, thank you.",
    "naïve café über 你好 世界",
] * 5
TEXTS = [
    "",
    "Hello, world!",
    " leading and trailing ",
    "two  spaces   three\n\n\ttabs\r\n",
    'def f(x):\n    """doc"""\n    return x ** 2  # 1234\n',
    '{"name": "Ann", "tags": ["a", null, 2.5e-3]}',
    "你好，世界。こんにちは 안녕하세요",  # noqa: RUF001
    "🐢 🧑‍🚀 naïve café e\u0301",
    "a literal <s> </s> <unk> <|endoftext|> [INST] <0x41> in the text",
]


@cache
def real_tokenizer(file: str) -> Tokenizer:
    return dctokenizers.load(DATA / file)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    """Loads a file of the shared data, once for all tests."""
    if not DATA.is_dir():
        pytest.skip(f"the shared tokenizers are not at {DATA}")

    @cache
    def load(file: str) -> Tokenizer:
        if file == "tekken.json":
            return dctokenizers.from_tekken(write_tekken(tmp_path_factory.mktemp("tekken")))
        return real_tokenizer(file)

    return load


def write_tekken(folder: Path) -> Path:
    """Mistral's ranks in the form of a tekken.json."""
    meta = json.loads((DATA / "tekken_240911.meta.json").read_text())
    with gzip.open(DATA / "tekken_240911.tiktoken.gz") as file:
        pairs = [line.split() for line in file]
    spec = {
        "config": {
            "pattern": meta["pat_str"],
            "num_vocab_tokens": len(pairs),
            "default_vocab_size": meta["vocab_size"],
            "default_num_special_tokens": meta["n_special_first"],
            "version": "v3",
        },
        "vocab": [
            {"rank": int(rank), "token_bytes": token.decode(), "token_str": None} for token, rank in pairs
        ],
    }
    path = folder / "tekken.json"
    path.write_text(json.dumps(spec))
    return path


def byte_level_backend(*, size: int = 400, prefix: bool = False) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>", "<|sep|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def spm_backend(*, style: str = "normalizer", size: int = 200) -> Backend:
    """A BPE with byte fallback, as Llama 2 (style "normalizer") or newer conversions ("metaspace")."""
    trained = Backend(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, show_progress=False))
    spec = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *spec["vocab"]]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in spec["merges"]]
    backend = Backend(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if style == "normalizer":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def unigram_backend(*, byte_fallback: bool = False, normalizer: object = None) -> Backend:
    trained = Backend(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    pieces = [tuple(entry) for entry in json.loads(trained.to_str())["model"]["vocab"]]
    fallback = [(f"<0x{byte:02X}>", -20.0) for byte in range(256)] if byte_fallback else []
    backend = Backend(models.Unigram([*pieces, *fallback], unk_id=0, byte_fallback=byte_fallback))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    metaspace = decoders.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), metaspace]) if byte_fallback else metaspace
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


SMALL_LOSSLESS = {
    "byte-level": byte_level_backend,
    "byte-level with prefix": lambda: byte_level_backend(prefix=True),
    "spm, normalizer": spm_backend,
    "spm, metaspace": lambda: spm_backend(style="metaspace"),
    "unigram with bytes": lambda: unigram_backend(byte_fallback=True),
}


@pytest.fixture(scope="session", params=sorted(SMALL_LOSSLESS))
def small_backend(request: pytest.FixtureRequest) -> Backend:
    return SMALL_LOSSLESS[request.param]()


@pytest.fixture(scope="session")
def small(small_backend: Backend) -> Tokenizer:
    return dctokenizers.from_huggingface(small_backend)


def tiny_ranks(folder: Path) -> Path:
    """A .tiktoken file with every byte and a few words."""
    words = [bytes([byte]) for byte in range(256)] + [b"he", b"ll", b"hell", b"hello", b" w"]
    path = folder / "tiny.tiktoken"
    lines = [base64.b64encode(word) + b" %d" % rank for rank, word in enumerate(words)]
    path.write_bytes(b"\n".join(lines))
    return path
