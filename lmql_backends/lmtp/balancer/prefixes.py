"""What a worker has probably cached: a bounded set of blocks of prompts, each with all that was before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


def block_hashes(token_ids: Sequence[int], block_tokens: int, adapter: str | None = None) -> list[int]:
    """One number for each whole block: of the block, of everything before it, and of the adapter.

    Two prompts with equal numbers may differ, if very rarely: the worst that follows is a bad choice of
    worker.
    """
    hashes: list[int] = []
    chain = 0 if adapter is None else hash(adapter)
    for start in range(0, len(token_ids) - block_tokens + 1, block_tokens):
        chain = hash((chain, *token_ids[start : start + block_tokens]))
        hashes.append(chain)
    return hashes


class PrefixIndex:
    """The blocks that went to one worker; the ones unused for longest are forgotten first."""

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, hashes: Sequence[int]) -> int:
        """How many blocks from the beginning are known."""
        for count, block in enumerate(hashes):
            if block not in self._blocks:
                return count
        return len(hashes)

    def add(self, hashes: Sequence[int]) -> None:
        """Remember them; the last of a chain are the first to be forgotten."""
        for block in reversed(hashes[: self._max_blocks]):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        self._blocks.clear()
