"""Adapters by the handles that spans name, and the order in which a batch computes them."""

from __future__ import annotations

from collections.abc import Sequence

from dcmodel.adapters import BASE, LoadedAdapter
from dcmodel.engine import Span
from dcmodel.errors import EngineError
from lmql_backends.llama_cpp.adapters import AdapterFiles, Applied, LlamaAdapter
from lmql_backends.llama_cpp.context import LlamaContext


class MountedAdapters:
    """llama.cpp computes a decode with the same adapters for all its tokens, and each change costs it the
    planning of its graphs: what shares an adapter goes together, and the one used last goes first."""

    def __init__(
        self, context: LlamaContext, files: AdapterFiles, always: Sequence[tuple[LlamaAdapter, float]] = ()
    ) -> None:
        """`always`: those of the whole model, under every other one."""
        self._context = context
        self._files = files
        self._always = list(always)
        self._mounted: dict[int, LlamaAdapter] = {}
        self._current = BASE
        self._apply(BASE)

    def read(self, source: str) -> LoadedAdapter:
        """From any thread. Raises `AdapterLoadError` and `CapabilityError`."""
        return self._files.read(source)

    def mount(self, adapter: int, loaded: LoadedAdapter) -> None:
        assert isinstance(loaded.weights, LlamaAdapter)
        self._mounted[adapter] = loaded.weights

    def unmount(self, adapter: int) -> None:
        self._context.drop_adapters()
        del self._mounted[adapter]
        self._apply(BASE)

    def use(self, adapter: int) -> None:
        """What the next decodes compute with."""
        if adapter != self._current:
            self._apply(adapter)

    def _apply(self, adapter: int) -> None:
        own = () if adapter == BASE else ((self._handle(adapter), 1.0),)
        always: Applied = tuple((each.handle, scale) for each, scale in self._always)
        self._context.use_adapters(always + own)
        self._current = adapter

    def _handle(self, adapter: int) -> object:
        if adapter not in self._mounted:
            raise EngineError(f"no adapter has the handle {adapter}.")
        return self._mounted[adapter].handle

    def groups(self, spans: Sequence[Span]) -> dict[int, list[int]]:
        """Places of the spans by adapter, in the order of computing."""
        found: dict[int, list[int]] = {}
        for place, span in enumerate(spans):
            found.setdefault(span.adapter, []).append(place)
        if self._current in found and len(found) > 1:
            found = {self._current: found[self._current], **found}
        return found
