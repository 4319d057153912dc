"""`MountedAdapter`: one mounting of an adapter, which lives as long as somebody holds it."""

from __future__ import annotations

from dcmodel.adapters import BASE


class MountedAdapter:
    """What computes with an adapter holds this: its name's entry in the table, sequences until they have
    ended, sessions and their forks. When nobody is left, the engine forgets the adapter.

    A name that is mounted again is another mounting: nothing that the first one computed is shared.
    """

    __slots__ = ("__weakref__", "handle", "name")

    def __init__(self, name: str, handle: int = BASE) -> None:
        """`handle`: the engine's, never used before; `BASE` where another side computes."""
        self.name = name
        self.handle = handle
