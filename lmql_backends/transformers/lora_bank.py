"""All mounted adapters of a model, computed together: hooks on its linear layers, which stay as they are.

The matrices of all adapters of a layer lie side by side (Punica and S-LoRA batch them with kernels of their
own: Chen et al. 2023, Sheng et al. 2023); for each row, the products of other adapters are blanked between
the two multiplications. A forward without adapters computes nothing more than the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from dcmodel.adapters import BASE
from dcmodel.errors import EngineError
from lmql_backends.transformers.lora_rows import AdapterRows, Layout
from lmql_backends.transformers.lora_weights import LinearShape, LoraPair, linear_shapes


class LoraLayer:
    """The adapters of one linear layer."""

    def __init__(self, name: str, shape: LinearShape, hook: RemovableHandle, dtype: torch.dtype) -> None:
        self.name = name
        self.hook = hook
        self.device = shape.device
        self.ranks: list[tuple[int, int]] = []
        """(handle, rank), in the order of their columns."""
        self.down = torch.empty((0, shape.inputs), dtype=dtype, device=shape.device)
        self.up = torch.empty((0, shape.outputs), dtype=dtype, device=shape.device)
        """Both with room for more than is used."""

    @property
    def used(self) -> int:
        return sum(rank for _, rank in self.ranks)

    def add(self, handle: int, pair: LoraPair) -> None:
        """Behind the others, which are copied only where the room is used up."""
        begin, end = self.used, self.used + pair.rank
        if end > len(self.down):
            room = max(end, 2 * len(self.down))
            self.down, self.up = (_grown(old, begin, room) for old in (self.down, self.up))
        self.down[begin:end] = pair.down
        self.up[begin:end] = pair.up
        self.ranks.append((handle, pair.rank))

    def remove(self, handle: int) -> None:
        """Close the gap."""
        keeps = torch.cat([torch.full((rank,), owner != handle) for owner, rank in self.ranks])
        kept = keeps.nonzero().squeeze(1).to(self.device)
        self.down, self.up = self.down[kept], self.up[kept]
        self.ranks = [item for item in self.ranks if item[0] != handle]


class LoraBank:
    """Mounts adapters and computes with them; everything but `shapes` belongs to the engine's thread."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.shapes: Mapping[str, LinearShape] = linear_shapes(model)
        self.dtype: torch.dtype = model.dtype
        self._device = model.device
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self._heads = {name for name, shape in self.shapes.items() if shape.module is head}
        """The layer that computes logits sees only the rows whose logits are wanted."""
        self._layers: dict[str, LoraLayer] = {}
        self._layouts: dict[tuple[Any, ...], Layout] = {}
        self._of_layer: dict[str, Layout] = {}
        self._rows: AdapterRows | None = None
        self._head_rows: AdapterRows | None = None
        self._heard: set[str] = set()

    def mount(self, handle: int, pairs: Mapping[str, LoraPair]) -> None:
        """Add an adapter. Nothing has changed where that fails."""
        try:
            for name, pair in pairs.items():
                if name not in self._layers:
                    shape = self.shapes[name]
                    hook = shape.module.register_forward_hook(partial(self._add, name))
                    self._layers[name] = LoraLayer(name, shape, hook, self.dtype)
                self._layers[name].add(handle, pair)
        except BaseException:
            self.unmount(handle)
            raise
        self._lay_out()

    def unmount(self, handle: int) -> None:
        """Take an adapter out, and the hooks that nobody needs any more."""
        for name, layer in list(self._layers.items()):
            if any(owner == handle for owner, _ in layer.ranks):
                layer.remove(handle)
            if not layer.ranks:
                layer.hook.remove()
                del self._layers[name]
        self._lay_out()

    def clear(self) -> None:
        for layer in self._layers.values():
            layer.hook.remove()
        self._layers.clear()
        self._of_layer.clear()
        self._layouts.clear()
        self.shapes = {}

    @contextmanager
    def computing(self, adapters: Sequence[int] | int, wanted: Sequence[int] = ()) -> Iterator[None]:
        """During a forward: the adapter of each of its rows (or one for all of them), and the rows whose
        logits are wanted."""
        has_any = adapters != BASE if isinstance(adapters, int) else any(adapters)
        if has_any:
            self._rows = self._head_rows = AdapterRows(adapters, self._device)
            if not isinstance(adapters, int) and not self._heads.isdisjoint(self._layers):
                self._head_rows = AdapterRows([adapters[row] for row in wanted], self._device)
        try:
            yield
        finally:
            self._rows = self._head_rows = None

    def unheard(self, pairs: Mapping[str, LoraPair]) -> list[str]:
        """Which layers of an adapter no forward has gone through since `listen`."""
        return [name for name in pairs if name not in self._heard]

    def listen(self) -> None:
        self._heard.clear()

    def _lay_out(self) -> None:
        """Layers whose adapters lie alike share what is made for a step."""
        layouts: dict[tuple[Any, ...], Layout] = {}
        self._of_layer = {}
        for name, layer in self._layers.items():
            key = (layer.device, *layer.ranks)
            if key not in layouts:
                layouts[key] = self._layouts.get(key) or Layout(layer.ranks, layer.device)
            self._of_layer[name] = layouts[key]
        self._layouts = layouts

    def _add(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """A layer's hook: add to its output what the adapters of the rows add."""
        rows = self._head_rows if name in self._heads else self._rows
        if rows is None:
            return None
        self._heard.add(name)
        columns = rows.columns(self._of_layer[name])
        if columns is None:
            return None
        layer = self._layers[name]
        flat = inputs[0].reshape(-1, layer.down.shape[1]).to(self.dtype)
        if columns.others is not None and len(columns.others) != len(flat):
            raise EngineError(
                f"{name} computes {len(flat)} rows of a batch of {len(columns.others)}.",
                remedy="An adapter of this layer cannot be batched with others: send one request at a time.",
            )
        low = F.linear(flat, layer.down[columns.span])
        if columns.others is not None:
            low.masked_fill_(columns.others, 0.0)
        up = layer.up[columns.span]
        if output.is_contiguous() and output.dtype == self.dtype:
            output.view(-1, up.shape[1]).addmm_(low, up)
            return output
        return output + (low @ up).view(output.shape).to(output.dtype)


def _grown(old: Tensor, used: int, room: int) -> Tensor:
    grown = old.new_empty((room, old.shape[1]))
    grown[:used] = old[:used]
    return grown
