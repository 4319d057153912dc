"""A `llama_context`: one KV cache for many sequences, and the calls that may change it."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

from dcmodel.errors import EngineError
from dcmodel.logits import Floats
from lmql_backends.llama_cpp.adapters import Applied
from lmql_backends.llama_cpp.batch import BatchBuffers, DecodeBatch
from lmql_backends.llama_cpp.model import LlamaModel

EVERYTHING = -1
FAILURES = {
    1: "found no room in its KV cache",
    2: "was aborted",
    -1: "refused the batch as inconsistent",
    -2: "had no memory for it",
    -3: "failed to compute",
}


class LlamaContext:
    """Used by one thread at a time. Sequences are numbers below the library's limit (256)."""

    def __init__(self, model: LlamaModel, handle: Any, *, max_tokens: int, max_rows: int) -> None:
        """`max_tokens` and `max_rows`: of one decode. The library ends the process where it gets more."""
        self.model = model
        self.handle = handle
        self._c = model.lib.c
        self._memory = self._c.llama_get_memory(handle)
        self._max_tokens = max_tokens
        self._max_rows = max_rows
        self._width = model.vocab_size
        self._buffers = BatchBuffers(self._c, max_tokens)
        self._address = 0
        self._views: dict[int, Floats] = {}
        """Of the buffer at that address, by number of rows."""
        self._applied: Applied = ()
        self._wished: Applied = ()
        self._finalizer = weakref.finalize(self, self._c.llama_free, handle)

    def use_adapters(self, adapters: Applied) -> None:
        """What the next decodes compute with. A change costs the planning of new graphs."""
        self._wished = adapters

    def decode(self, batch: DecodeBatch) -> Floats:
        """Logits ``[len(batch.wanted), vocab_size]``: the library's own buffer, valid until the next call.

        Raises `EngineError`; the context may then hold a part of the batch.
        """
        rows = len(batch.wanted)
        if batch.num_tokens > self._max_tokens or rows > self._max_rows:
            raise EngineError(
                f"{batch.num_tokens} tokens and {rows} rows of logits are more than the "
                f"{self._max_tokens} and {self._max_rows} of a decode."
            )
        lib = self.model.lib
        lib.clear_errors()
        if self._wished == self._applied:
            code = self._buffers.decode(batch, self.handle)
        else:  # it walks over the model's list of adapters
            with self.model.adapters_lock:
                self._apply()
                code = self._buffers.decode(batch, self.handle)
        if code:
            reason = lib.reason()
            raise EngineError(
                f"llama.cpp {FAILURES.get(code, f'gave the code {code}')}{f': {reason}' if reason else ''}."
            )
        if not rows:
            return np.zeros((0, self._width), dtype=np.float32)
        return self._rows(rows)

    def drop_adapters(self) -> None:
        """Let go of those that the last decode used, so that they may be freed."""
        with self.model.adapters_lock:
            self._wished = ()
            self._apply()

    def _apply(self) -> None:
        count = len(self._wished)
        handles = (self._c.llama_adapter_lora_p_ctypes * count)(*(handle for handle, _ in self._wished))
        scales = (ctypes.c_float * count)(*(scale for _, scale in self._wished))
        if self._c.llama_set_adapters_lora(self.handle, handles, count, scales):
            raise EngineError(f"llama.cpp cannot apply an adapter: {self.model.lib.reason()}.")
        self._applied = self._wished

    def _rows(self, count: int) -> Floats:
        """The library's buffer as an array; it lies where it lay, unless it had to grow."""
        pointer = self._c.llama_get_logits(self.handle)
        address = ctypes.cast(pointer, ctypes.c_void_p).value or 0
        if address != self._address:
            self._address = address
            self._views.clear()
        if count not in self._views:
            values: Any = (ctypes.c_float * (count * self._width)).from_address(address)
            self._views[count] = np.frombuffer(values, dtype=np.float32).reshape(count, self._width)
        return self._views[count]

    def share(self, source: int, target: int, length: int = EVERYTHING) -> None:
        """`target`, which holds nothing, gets the first `length` tokens of `source`, without a copy."""
        self._c.llama_memory_seq_cp(self._memory, source, target, EVERYTHING, length)

    def remove(self, sequence: int, start: int = EVERYTHING) -> bool:
        """Forget the tokens from position `start`; False, and nothing changed, where a part cannot be."""
        return bool(self._c.llama_memory_seq_rm(self._memory, sequence, start, EVERYTHING))

    def wipe(self) -> None:
        """Forget all sequences, and overwrite what was computed for them with zeros."""
        self._c.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the context, then the model."""
        self._finalizer()
        self.model.close()
