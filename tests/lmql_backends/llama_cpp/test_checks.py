"""Models that do not say which token comes next are refused with what they are."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf_files import finish, with_metadata
from gguf_models import VOCAB, add_byte_vocabulary, save_mamba

from dcmodel import LLM
from dcmodel.errors import ModelLoadError

from .conftest import rows_of, span_of

TOLERANCE = 1e-4
WIDTH, INNER, HEADS, POSITIONS = 32, 64, 4, 64


def save_encoder(path, architecture):
    """One layer of the encoder of a T5 ("t5", "t5encoder"; the first has a decoder, too), or a BERT."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_relative_attn_buckets_count(8)
    writer.add_token_type_count(2)
    if architecture == "bert":
        writer.add_causal_attention(False)
    add_byte_vocabulary(writer)
    shapes = bert_shapes() if architecture == "bert" else t5_shapes(architecture == "t5")
    for name, shape in shapes.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    return finish(writer, path)


def t5_shapes(has_decoder):
    shapes = {"token_embd.weight": (VOCAB, WIDTH)}
    parts = ["enc", "dec"] if has_decoder else ["enc"]
    for part in parts:
        shapes[f"{part}.output_norm.weight"] = (WIDTH,)
        for kind in ("attn", "cross_attn") if part == "dec" else ("attn",):
            shapes[f"{part}.blk.0.{kind}_norm.weight"] = (WIDTH,)
            shapes |= {f"{part}.blk.0.{kind}_{name}.weight": (WIDTH, WIDTH) for name in "qkvo"}
        shapes[f"{part}.blk.0.ffn_norm.weight"] = (WIDTH,)
        shapes[f"{part}.blk.0.ffn_up.weight"] = (INNER, WIDTH)
        shapes[f"{part}.blk.0.ffn_down.weight"] = (WIDTH, INNER)
    return shapes


def bert_shapes():
    norms = ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm")
    squares = ("attn_q", "attn_k", "attn_v", "attn_output")
    return {
        "token_embd.weight": (VOCAB, WIDTH),
        "position_embd.weight": (POSITIONS, WIDTH),
        **{f"{name}.{kind}": (WIDTH,) for name in norms for kind in ("weight", "bias")},
        **{f"blk.0.{name}.weight": (WIDTH, WIDTH) for name in squares},
        **{f"blk.0.{name}.bias": (WIDTH,) for name in squares},
        "blk.0.ffn_up.weight": (INNER, WIDTH),
        "blk.0.ffn_up.bias": (INNER,),
        "blk.0.ffn_down.weight": (WIDTH, INNER),
        "blk.0.ffn_down.bias": (WIDTH,),
    }


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"llama.pooling_type": 1}, r"an embedding model \(architecture llama\)"),
        ({"llama.pooling_type": 3}, "an embedding model"),
        ({"llama.pooling_type": 4}, "a reranking model"),
        ({"llama.attention.causal": False}, "an encoder"),
        ({"general.architecture": "llada"}, r"a diffusion model \(architecture llada\)"),
        ({"general.architecture": "llada", "llada.attention.causal": False}, "a diffusion model"),
    ],
)
def test_what_the_metadata_says_is_believed(open_engine, llama, tmp_path, values, kind):
    path = with_metadata(llama[1], tmp_path / "other.gguf", values)
    with pytest.raises(ModelLoadError, match=rf"other\.gguf is {kind}.*which token comes next"):
        open_engine(path)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("t5", "an encoder-decoder model"), ("t5encoder", "an encoder"), ("bert", "an encoder")],
)
def test_an_encoder_is_refused(open_engine, tmp_path, architecture, kind):
    path = save_encoder(tmp_path / "encoder.gguf", architecture)
    with pytest.raises(ModelLoadError, match=rf"is {kind} \(architecture {architecture}\)"):
        open_engine(path)


@pytest.mark.parametrize(
    "values", [{}, {"llama.pooling_type": 0}, {"llama.attention.causal": True, "general.name": "plain"}]
)
def test_an_ordinary_model_passes(open_engine, llama, reference, tmp_path, values):
    engine = open_engine(with_metadata(llama[1], tmp_path / "same.gguf", values))
    text = [*range(5, 25)]
    (rows,) = rows_of(engine, span_of(engine.allocate(20), text))
    np.testing.assert_allclose(rows, reference(text), atol=TOLERANCE, rtol=0)


def test_a_recurrent_model_passes(open_engine, tmp_path):
    assert open_engine(save_mamba(tmp_path / "mamba.gguf")).capabilities.vocab_size == VOCAB


def test_the_error_reaches_who_asked_for_text(llama, tmp_path):
    path = with_metadata(llama[1], tmp_path / "embedder.gguf", {"llama.pooling_type": 1})
    with pytest.raises(ModelLoadError, match="Use a causal language model"), LLM(path) as llm:
        llm.generate("a")
