"""Token-level control of any language model: constrained generation and exact scores.

    from dcmodel import LLM

    llm = LLM()
    print(llm.generate("3 + 4 =", regex=" [0-9]+").text)

The names below are imported when they are first used, so that ``import dcmodel`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dcmodel.backend import Backend, LoadedEngine, LoadOptions
    from dcmodel.constraint import Constraint
    from dcmodel.constraints import (
        And,
        Choice,
        FixedMask,
        Grammar,
        Hole,
        JsonSchema,
        Length,
        MaskFunction,
        Not,
        NotIn,
        Or,
        PrefixOf,
        Regex,
        StartsWith,
        Stop,
        Template,
        Then,
        TokenSet,
        Type,
        Until,
        stops_at,
        stops_before,
    )
    from dcmodel.errors import DcModelError
    from dcmodel.llm import (
        LLM,
        AsyncTextStream,
        ChoiceResult,
        RollingScore,
        Scored,
        ScoredToken,
        TextSession,
        TextStream,
    )
    from dcmodel.mask import TokenMask
    from dcmodel.model import DcModel, GenerateStream
    from dcmodel.session import Session
    from dcmodel.types import (
        Certificate,
        Completion,
        Cost,
        FinishReason,
        GenerateRequest,
        ModelInfo,
        NextTokens,
        SamplingParams,
        ScoreRequest,
        ScoreResult,
        TokenLogprobs,
        TokenStep,
        TopLogprob,
        Usage,
    )

__version__ = "0.1.0"

_MODULES = {
    "backend": ("Backend", "LoadOptions", "LoadedEngine"),
    "constraint": ("Constraint",),
    "constraints": (
        *("And", "Not", "Or", "Then"),
        *("Choice", "FixedMask", "Grammar", "Hole", "JsonSchema", "Length", "MaskFunction"),
        *("NotIn", "PrefixOf"),
        *("Regex", "StartsWith", "Stop", "Template", "TokenSet", "Type", "Until"),
        *("stops_at", "stops_before"),
    ),
    "errors": ("DcModelError",),
    "llm": (
        *("LLM", "AsyncTextStream", "ChoiceResult", "RollingScore", "Scored", "ScoredToken"),
        *("TextSession", "TextStream"),
    ),
    "mask": ("TokenMask",),
    "model": ("DcModel", "GenerateStream"),
    "session": ("Session",),
    "types": (
        "Certificate",
        "Completion",
        "Cost",
        "FinishReason",
        "GenerateRequest",
        "ModelInfo",
        "NextTokens",
        "SamplingParams",
        "ScoreRequest",
        "ScoreResult",
        "TokenLogprobs",
        "TokenStep",
        "TopLogprob",
        "Usage",
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "LLM",
    "And",
    "AsyncTextStream",
    "Backend",
    "Certificate",
    "Choice",
    "ChoiceResult",
    "Completion",
    "Constraint",
    "Cost",
    "DcModel",
    "DcModelError",
    "FinishReason",
    "FixedMask",
    "GenerateRequest",
    "GenerateStream",
    "Grammar",
    "Hole",
    "JsonSchema",
    "Length",
    "LoadOptions",
    "LoadedEngine",
    "MaskFunction",
    "ModelInfo",
    "NextTokens",
    "Not",
    "NotIn",
    "Or",
    "PrefixOf",
    "Regex",
    "RollingScore",
    "SamplingParams",
    "ScoreRequest",
    "ScoreResult",
    "Scored",
    "ScoredToken",
    "Session",
    "StartsWith",
    "Stop",
    "Template",
    "TextSession",
    "TextStream",
    "Then",
    "TokenLogprobs",
    "TokenMask",
    "TokenSet",
    "TokenStep",
    "TopLogprob",
    "Type",
    "Until",
    "Usage",
    "__version__",
    "stops_at",
    "stops_before",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
