"""What an adapter's configuration says, and which of it can be computed exactly."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dcmodel.errors import AdapterLoadError, CapabilityError

T = TypeVar("T")

# Say how it was trained, where it came from, or what the tensors say themselves.
HARMLESS = frozenset(
    (
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout"),
        *("fan_in_fan_out", "use_rslora", "init_lora_weights", "layers_to_transform", "layers_pattern"),
        *("rank_pattern", "alpha_pattern", "megatron_config", "megatron_core", "loftq_config"),
        *("eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size"),
        *("runtime_config", "ensure_weight_tying"),
    )
)
REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA: the size of each weight's columns changes with the adapter",
    "alora_invocation_tokens": "activated LoRA: it begins in the middle of a text",
    "use_qalora": "QALoRA: its inputs are pooled",
    "bias": "the biases of the model's own layers were trained",
    "lora_bias": "its own layers have biases",
    "modules_to_save": "whole modules of the model were trained",
    "trainable_token_indices": "embeddings of single tokens were trained",
    "target_parameters": "it changes parameters that belong to no linear layer (fused experts)",
    "layer_replication": "it repeats the model's layers",
    "arrow_config": "it routes between several adapters",
    "use_bdlora": "its matrices are made of blocks",
    "kasa_config": "it changes the model's own weights",
    "monteclora_config": "its weights are drawn at random",
}


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Which layers an adapter changes, and by how much."""

    rank: int
    alpha: float
    is_rank_stabilised: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: str | frozenset[str] | None
    """A regular expression, ends of names, or None: whatever has weights."""
    excluded: str | frozenset[str]
    layers: frozenset[int] | None
    layers_patterns: tuple[str, ...]

    def rank_of(self, layer: str) -> int:
        return _by_pattern(self.rank_pattern, layer, self.rank)

    def scale_of(self, layer: str) -> float:
        """What B A is multiplied by."""
        rank, alpha = self.rank_of(layer), _by_pattern(self.alpha_pattern, layer, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)

    def names(self, layer: str) -> bool:
        """Whether the configuration means this layer; the rules are peft's."""
        if _is_named(layer, self.excluded):
            return False
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, layer) is not None
        if self.targets is None or layer in self.targets:
            return True
        if not _is_named(layer, self.targets):
            return False
        return self.layers is None or _layer_index(layer, self.layers_patterns) in self.layers


def parse_config(raw: Mapping[str, Any], source: str) -> LoraConfig:
    """Raises `CapabilityError` for what cannot be computed exactly, `AdapterLoadError` for nonsense."""
    _refuse(raw, source)
    try:
        targets = raw.get("target_modules")
        layers = raw.get("layers_to_transform")
        patterns = raw.get("layers_pattern") or ()
        if isinstance(targets, str) and targets.lower() == "all-linear":
            targets = None
        config = LoraConfig(
            rank=int(raw["r"]),
            alpha=float(raw["lora_alpha"]),
            is_rank_stabilised=bool(raw.get("use_rslora")),
            rank_pattern={str(key): int(rank) for key, rank in (raw.get("rank_pattern") or {}).items()},
            alpha_pattern={str(key): float(alpha) for key, alpha in (raw.get("alpha_pattern") or {}).items()},
            targets=targets if targets is None or isinstance(targets, str) else frozenset(targets),
            excluded=_names(raw.get("exclude_modules")),
            layers=_layers(layers),
            layers_patterns=(patterns,) if isinstance(patterns, str) else tuple(patterns),
        )
        _check_patterns(config)
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise AdapterLoadError(
            f"the configuration of {source} cannot be used: {error!r}.",
            remedy="Save the adapter again with peft.",
        ) from error
    if min([config.rank, *config.rank_pattern.values()]) < 1:
        raise AdapterLoadError(f"{source} has a rank of {config.rank}.", remedy="Ranks are at least 1.")
    return config


def _refuse(raw: Mapping[str, Any], source: str) -> None:
    kind = str(raw.get("peft_type", "")).upper()
    if kind != "LORA":
        raise CapabilityError(
            f"{source} is an adapter of type {raw.get('peft_type')!r}; only LORA is computed here.",
            remedy="Merge it into the model with peft's merge_and_unload and save_pretrained, and load that.",
        )
    for key, value in raw.items():
        if key in HARMLESS or not value or (key == "bias" and value == "none"):
            continue
        reason = REFUSED.get(key, f"its setting {key}={value!r:.80} is not known here")
        raise CapabilityError(
            f"{source} is no plain LoRA: {reason}.",
            remedy="Merge it into the model with peft's merge_and_unload and save_pretrained, and load that.",
        )


def _check_patterns(config: LoraConfig) -> None:
    """Raises `re.error` for what is no regular expression."""
    texts: list[str] = [*config.rank_pattern, *config.alpha_pattern, *config.layers_patterns]
    texts += [item for item in (config.targets, config.excluded) if isinstance(item, str)]
    for text in texts:
        re.compile(text)


def _names(value: str | Iterable[str] | None) -> str | frozenset[str]:
    return value if isinstance(value, str) else frozenset(value or ())


def _layers(value: int | Iterable[int] | None) -> frozenset[int] | None:
    if isinstance(value, int):
        return frozenset((value,))
    return frozenset(map(int, value)) if value else None


def _is_named(layer: str, names: str | frozenset[str]) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _layer_index(layer: str, patterns: tuple[str, ...]) -> int | None:
    """The number of the block that a layer stands in."""
    for pattern in patterns or (r"[^.]*",):
        found = re.match(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.", layer)
        if found is not None:
            return int(found["index"])
    return None


def _by_pattern(patterns: Mapping[str, T], layer: str, default: T) -> T:
    """The value of the first pattern that an end of the layer's name matches."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default
