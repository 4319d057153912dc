"""An interpreter in which some packages are not installed: no metadata, no modules.

For a process of its own: it changes how that imports.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder


class Hiding(DistributionFinder):
    """Stands for `PathFinder` and finds all but what is hidden."""

    def __init__(self, distributions: Iterable[str], modules: Iterable[str]) -> None:
        self._distributions = frozenset(distributions)
        self._modules = frozenset(modules)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self._modules:
            return None
        return PathFinder.find_spec(fullname, path, target)  # type: ignore[arg-type]

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        for found in MetadataPathFinder.find_distributions(context or DistributionFinder.Context()):
            if found.metadata["Name"].lower().replace("_", "-") not in self._distributions:
                yield found


def hide(*distributions: str) -> None:
    """From here on these are not installed (a module is called like its distribution, or as llama_cpp is)."""
    modules = {name.removesuffix("-python").replace("-", "_") for name in distributions}
    others = [finder for finder in sys.meta_path if finder is not PathFinder]
    sys.meta_path[:] = [*others, Hiding(distributions, modules)]
