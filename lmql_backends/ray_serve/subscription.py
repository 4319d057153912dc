"""How an ingress hears which engine replicas there are."""

from __future__ import annotations

from collections.abc import Callable, Set


class Subscription:
    """Goes to the router inside a call, as its argument: Serve makes the router of a handle itself, in the
    process of the handle, and hands it nothing of ours. To a replica it arrives as None."""

    def __init__(self, tell: Callable[[Set[str]], None]) -> None:
        """`tell` is called from the router's thread, with all replicas that take new requests: at once, and
        whenever they change."""
        self.tell = tell
        self.held: Set[str] = frozenset()
        """Replicas that are still to be reached though they take nothing new; replaced, never changed."""
        self.on_release: Callable[[], object] | None = None
        """Set by the router: `held` has become smaller. From any thread."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _nothing, ()


def _nothing() -> None:
    """What arrives."""
