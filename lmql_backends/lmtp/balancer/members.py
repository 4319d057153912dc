"""All workers of a pool must be the same model: a request may go on from one to another."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dcmodel.errors import SetupError
from dcmodel.model import DcModel


@dataclass(frozen=True, slots=True)
class Identity:
    """What must be equal for the same request to give the same tokens."""

    name: str
    backend: str
    dtype: str
    device: str
    """Without its number."""
    vocab_size: int
    max_positions: int
    fingerprint: str
    eos_token_ids: tuple[int, ...]


def identity_of(model: DcModel) -> Identity:
    info = model.info
    return Identity(
        name=info.name,
        backend=info.backend,
        dtype=info.dtype,
        device=info.device.partition(":")[0],
        vocab_size=info.vocab_size,
        max_positions=info.max_positions,
        fingerprint=model.tokenizer.fingerprint,
        eos_token_ids=tuple(model.tokenizer.eos_token_ids),
    )


def check_same(expected: Identity, found: Identity, address: str) -> None:
    """Raises `SetupError` that names what differs."""
    different = [
        f"{field.name} is {getattr(found, field.name)!r}, not {getattr(expected, field.name)!r}"
        for field in fields(Identity)
        if getattr(found, field.name) != getattr(expected, field.name)
    ]
    if different:
        raise SetupError(
            f"worker {address} serves another model than the others: {'; '.join(different)}.",
            remedy="All workers of a balancer serve the same model in the same way.",
        )
