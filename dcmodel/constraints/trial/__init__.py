"""Compiling in a helper process first, which may be ended: an engine's call in this process may not."""

from dcmodel.constraints.trial.pool import (
    TRIAL_MEGABYTES,
    TRIAL_SECONDS,
    check_in_child,
)

__all__ = ["TRIAL_MEGABYTES", "TRIAL_SECONDS", "check_in_child"]
