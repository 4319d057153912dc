"""From a model's name to an engine: load, pack, probe, test, choose."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

from transformers import PreTrainedModel

from dcmodel.backend import LoadedEngine, LoadOptions
from dcmodel.engine import Capabilities, Engine
from dcmodel.errors import ModelLoadError
from dcmodel.types import ModelInfo
from dctokenizers import Tokenizer, TokenizerError
from dctokenizers import load as load_tokenizer
from lmql_backends.transformers import limits
from lmql_backends.transformers.attention import ProbeStep
from lmql_backends.transformers.chat_template import chat_template
from lmql_backends.transformers.checkpoint import (
    choose_device,
    choose_dtype,
    end_token_ids,
    load_config,
    load_model,
)
from lmql_backends.transformers.cpu_pack import pack_linears, unpack_linears
from lmql_backends.transformers.engine import TransformersEngine
from lmql_backends.transformers.fallback import PlainEngine
from lmql_backends.transformers.kv_segment import LayerShape
from lmql_backends.transformers.kv_store import KVStore
from lmql_backends.transformers.packed import accepts_attention, probe, use_slots
from lmql_backends.transformers.self_test import Reference, agrees, branches_agree, make_reference

logger = logging.getLogger(__name__)

MAX_SEQUENCES = 256
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 4096
# Of the branches behind one sequence; they hold no KV, but their masks grow with the square of the number.
CPU_BRANCH_TOKENS, GPU_BRANCH_TOKENS = 512, 2048
# Of a forward's logits, in float32.
CPU_LOGIT_BYTES, GPU_LOGIT_BYTES = 128 << 20, 1 << 30
LEAST_ROWS = 16
FLOAT_BYTES = 4
TEST_TOKENS = 64
DIFFERENT = "packed and plain forwards differ"


@dataclass(frozen=True, slots=True)
class Built:
    """An engine, and what `ModelInfo.details` says of it."""

    engine: Engine
    details: dict[str, str]


def load(model_name: str, options: LoadOptions) -> LoadedEngine:
    """Load a causal language model. Raises `ModelNotFoundError` and `ModelLoadError`."""
    device = choose_device(options.device)
    config = load_config(model_name, options.extra)
    model = load_model(
        model_name, config, device=device, dtype=choose_dtype(options.dtype, device), extra=options.extra
    )
    tokenizer = _tokenizer(model_name, model)
    built = build_engine(model, options, name=model_name)
    return LoadedEngine(
        engine=built.engine,
        tokenizer=tokenizer,
        info=ModelInfo(
            name=model_name,
            backend="transformers",
            vocab_size=built.engine.capabilities.vocab_size,
            max_positions=built.engine.capabilities.max_positions,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            details=built.details,
            chat_template=chat_template(model_name, options.extra),
        ),
    )


def build_engine(model: PreTrainedModel, options: LoadOptions, *, name: str) -> Built:
    """The packed engine if it gives what the model gives, else the plain one.

    The model belongs to the engine from here on.
    """
    reference = _reference(model, name)
    details = {"architecture": type(model).__name__}
    packed = pack_linears(model)
    engine, reason = _packed_engine(model, options, reference)
    if reason == DIFFERENT and packed:
        unpack_linears(model)
        packed = 0
        engine, reason = _packed_engine(model, options, reference)
    if engine is None:
        logger.warning("%s runs one sequence at a time, which is slow: %s.", name, reason)
        return Built(_plain_engine(model, options, reference, name), {**details, "slow": reason})
    if packed:
        details["packed_linears"] = str(packed)
    if not engine.capabilities.max_branch_tokens:
        logger.warning("%s scores candidates one by one: branches and plain forwards differ.", name)
        details["branches"] = "none: they differ from plain forwards"
    limit, shorter = limits.packed_positions(model.config)
    if shorter:
        details["limit"] = f"{limit} of {limits.model_positions(model.config)} positions: {shorter}"
    return Built(engine, details)


def _reference(model: PreTrainedModel, name: str) -> Reference:
    """Computed with the attention that the model's authors wrote: sdpa once dropped Gemma 2's softcap."""
    longest = min(TEST_TOKENS, limits.model_positions(model.config))
    original = model.config._attn_implementation
    if accepts_attention(model):
        model.set_attn_implementation("eager")
    reference = make_reference(model, model.config.get_text_config().vocab_size, longest=longest)
    if accepts_attention(model):
        model.set_attn_implementation(original)
    if not reference.is_causal:
        raise ModelLoadError(
            f"{name} lets later tokens change what it says of earlier ones: it is no causal language model.",
            remedy="Use a causal language model.",
        )
    return reference


def _packed_engine(
    model: PreTrainedModel, options: LoadOptions, reference: Reference
) -> tuple[Engine | None, str]:
    """The packed engine, or why not."""
    positions, shorter = limits.packed_positions(model.config)
    if not accepts_attention(model):
        return None, "its attention cannot be replaced"
    if shorter and (options.max_context or 0) > positions:
        return None, shorter
    original = model.config._attn_implementation
    use_slots(model)
    found = _probe(model)
    reason = _misfit(model, found, positions)
    if not reason and found is not None:
        vocab_size = reference.logprobs[0].shape[1]
        engine = _test_engine(model, found.shapes, vocab_size)
        if agrees(engine, reference):
            has_branches = branches_agree(engine, reference)
            return _final_engine(model, options, found.shapes, vocab_size, positions, has_branches), ""
        reason = DIFFERENT
    model.set_attn_implementation(original)
    return None, reason


def _probe(model: PreTrainedModel) -> ProbeStep | None:
    try:
        return probe(model)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, IndexError, AttributeError) as error:
        logger.info("a packed forward of one token fails: %s", error)
        return None


def _misfit(model: PreTrainedModel, found: ProbeStep | None, positions: int) -> str:
    """Why the slot store does not fit what the layers do; empty if it does."""
    if found is None or not found.shapes:
        return "its attention does not go through the attention interface"
    if len(found.devices) > 1:
        return "its layers are on several devices"
    expected = limits.expected_windows(model.config, len(found.windows))
    if expected is None:
        return "its layers are of kinds that are not known"
    cut = [
        [0 if window >= positions else window for window in windows] for windows in (expected, found.windows)
    ]
    return "" if cut[0] == cut[1] else "its sliding windows are not where its configuration says"


def _test_capabilities(vocab_size: int) -> Capabilities:
    """Just enough for the self test."""
    return Capabilities(
        vocab_size=vocab_size,
        max_positions=TEST_TOKENS,
        max_sequences=4,
        kv_tokens=4 * TEST_TOKENS,
        max_batch_tokens=4 * TEST_TOKENS,
        max_branch_tokens=4 * TEST_TOKENS,
    )


def _test_engine(model: PreTrainedModel, shapes: list[LayerShape], vocab_size: int) -> TransformersEngine:
    return _slot_engine(model, shapes, _test_capabilities(vocab_size))


def _slot_engine(
    model: PreTrainedModel, shapes: list[LayerShape], capabilities: Capabilities
) -> TransformersEngine:
    store = KVStore(
        shapes,
        kv_tokens=capabilities.kv_tokens,
        max_sequences=capabilities.max_sequences,
        max_length=capabilities.max_positions,
        device=model.device,
    )
    return TransformersEngine(model, capabilities, store)


def _final_engine(
    model: PreTrainedModel,
    options: LoadOptions,
    shapes: list[LayerShape],
    vocab_size: int,
    positions: int,
    has_branches: bool,
) -> TransformersEngine:
    bytes_per_token = sum(shape.bytes_per_token for shape in shapes)
    capabilities = _capabilities(model, options, vocab_size, positions, bytes_per_token)
    if has_branches:
        most = CPU_BRANCH_TOKENS if model.device.type == "cpu" else GPU_BRANCH_TOKENS
        capabilities = dataclasses.replace(
            capabilities, max_branch_tokens=min(most, capabilities.max_batch_tokens)
        )
    return _slot_engine(model, shapes, capabilities)


def _plain_engine(
    model: PreTrainedModel, options: LoadOptions, reference: Reference, name: str
) -> PlainEngine:
    """With the model's own cache if that gives what the model gives without."""
    vocab_size = reference.logprobs[0].shape[1]
    positions = limits.model_positions(model.config)
    capabilities = _capabilities(model, options, vocab_size, positions, _guess_bytes_per_token(model))
    test = _test_capabilities(vocab_size)
    for implementation in dict.fromkeys((model.config._attn_implementation, "eager")):
        if accepts_attention(model):
            model.set_attn_implementation(implementation)
        for uses_cache in (True, False):
            if agrees(PlainEngine(model, test, uses_cache=uses_cache), reference):
                engine = PlainEngine(model, capabilities, uses_cache=uses_cache)
                engine.capabilities = dataclasses.replace(capabilities, can_copy=engine.copies_parts())
                return engine
    raise ModelLoadError(
        f"{name} does not give the same numbers twice: its forwards cannot be trusted.",
        remedy="Use another dtype or device, or another model.",
    )


def _capabilities(
    model: PreTrainedModel, options: LoadOptions, vocab_size: int, positions: int, bytes_per_token: int
) -> Capabilities:
    max_positions = min(positions, options.max_context or positions)
    max_sequences = options.max_sequences or MAX_SEQUENCES
    is_cpu = model.device.type == "cpu"
    batch_tokens = CPU_BATCH_TOKENS if is_cpu else GPU_BATCH_TOKENS
    logit_bytes = CPU_LOGIT_BYTES if is_cpu else GPU_LOGIT_BYTES
    return Capabilities(
        vocab_size=vocab_size,
        max_positions=max_positions,
        max_sequences=max_sequences,
        kv_tokens=options.kv_tokens
        or limits.default_kv_tokens(bytes_per_token, model.device, most=max_sequences * max_positions),
        max_batch_tokens=options.max_batch_tokens or max(batch_tokens, max_sequences),
        # Each decoding sequence needs its row in any case.
        max_batch_rows=max(LEAST_ROWS, max_sequences, logit_bytes // (vocab_size * FLOAT_BYTES)),
    )


def _guess_bytes_per_token(model: PreTrainedModel) -> int:
    """For a cache that has not been seen: keys and values as wide as the hidden state."""
    text = model.config.get_text_config()
    return 2 * int(text.num_hidden_layers) * int(text.hidden_size) * model.dtype.itemsize


def _tokenizer(name: str, model: PreTrainedModel) -> Tokenizer:
    try:
        tokenizer = load_tokenizer(name)
    except TokenizerError as error:
        raise ModelLoadError(
            f"the tokenizer of {name} cannot be loaded: {error}",
            remedy="The folder needs its tokenizer files, tokenizer.json at best.",
        ) from error
    ends = [token_id for token_id in end_token_ids(model) if 0 <= token_id < tokenizer.vocab_size]
    # The tokenizer's own end first: it is the one that chat templates write.
    ends.sort(key=lambda token_id: token_id not in tokenizer.eos_token_ids)
    return tokenizer.with_eos(ends) if ends else tokenizer
