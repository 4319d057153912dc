"""`LocalDcModel`: an engine of this process, under a scheduler, as a `DcModel`."""

from dcmodel.local.model import LocalDcModel

__all__ = ["LocalDcModel"]
