"""Every error that dcmodel raises on purpose.

    DcModelError
    ├── InvalidRequestError (ValueError)      the caller's argument is wrong
    │   ├── InvalidConstraintError            a regex, schema or grammar that does not compile
    │   │   ├── UnsupportedConstraintError    legal, but no exact mask can be built for it
    │   │   └── UnsatisfiableConstraintError  nothing can match it
    │   ├── ConstraintViolationError          a given token that the constraint refuses
    │   ├── ContextLengthError                prompt (and max_tokens) do not fit the model
    │   ├── AdapterNotFoundError              no adapter of that name is mounted
    │   └── TokenRangeError                   a token id outside the vocabulary
    ├── SetupError                            this installation or this name cannot work
    │   ├── MissingDependencyError            an extra is not installed
    │   ├── BackendNotFoundError              no backend of that name, or none fits
    │   ├── ModelNotFoundError                no model under that name
    │   ├── ModelLoadError                    the model is there, and broken or too large
    │   │   └── AdapterLoadError              an adapter that is missing, broken, or made for another model
    │   ├── UnauthorizedError                 a server wants a token, or another one
    │   └── SettingError                      a DCMODEL_* variable has a bad value
    ├── CapabilityError                       this backend cannot do that, and says why
    │   └── MaskNotRepresentableError         an endpoint that can apply no mask like this one
    └── GenerationError                       one request failed while it ran; others go on
        ├── NonFiniteLogitsError              the model gave NaN or +inf
        ├── DeadEndError                      the constraint allows no further token
        ├── ConstraintRuntimeError            a matcher, or the caller's own function, failed
        ├── EngineError                       the engine failed in the middle of a step
        ├── RetryableError                    a retry can help
        │   ├── OverloadedError               the queue is full
        │   └── ConnectionLostError           the other side is gone
        ├── RequestCancelledError             the request was cancelled
        └── ModelClosedError                  the model was closed

An error says what value was wrong (message), what to do (``remedy``), and whether trying the same
again can help (``retryable``).
"""

from __future__ import annotations


class DcModelError(Exception):
    """Base of all errors. ``str(error)`` is the message followed by the remedy."""

    retryable: bool = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class InvalidRequestError(DcModelError, ValueError):
    """An argument that can never work."""


class InvalidConstraintError(InvalidRequestError):
    """A constraint that does not compile. ``position`` is an offset in characters, where known."""

    def __init__(self, message: str, *, remedy: str = "", position: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.position = position


class UnsupportedConstraintError(InvalidConstraintError):
    """Legal, but no exact mask can be built. ``keyword`` names the part that is at fault."""

    def __init__(self, message: str, *, remedy: str = "", keyword: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.keyword = keyword


class UnsatisfiableConstraintError(InvalidConstraintError):
    """No text can match."""


class ConstraintViolationError(InvalidRequestError):
    """A token that the caller gave is refused by the constraint."""


class ContextLengthError(InvalidRequestError):
    """Prompt, or prompt and ``max_tokens``, exceed what the model can hold."""


class AdapterNotFoundError(InvalidRequestError):
    """The request names an adapter that is not mounted."""


class TokenRangeError(InvalidRequestError):
    """A token id outside ``0 <= id < vocab_size``."""


class SetupError(DcModelError):
    """This installation, or this name, cannot work as it stands."""


class MissingDependencyError(SetupError):
    """An optional dependency is missing; the remedy is the pip line."""


class BackendNotFoundError(SetupError):
    """No backend of that name is registered, or none can serve the model."""


class ModelNotFoundError(SetupError):
    """Nothing is found under the model's name."""


class ModelLoadError(SetupError):
    """The model was found and cannot be loaded."""


class AdapterLoadError(ModelLoadError):
    """An adapter that is not there, is broken, or was made for another model."""


class UnauthorizedError(SetupError):
    """A server wants a token, or another one than it got."""


class SettingError(SetupError):
    """An environment variable holds a bad value."""


class CapabilityError(DcModelError):
    """The backend cannot do what was asked."""


class MaskNotRepresentableError(CapabilityError):
    """The endpoint has no way to draw a token under this mask, or not with these sampling parameters."""


class GenerationError(DcModelError):
    """A single request failed while it ran."""


class NonFiniteLogitsError(GenerationError):
    """The model gave NaN or +inf for this row."""


class DeadEndError(GenerationError):
    """The constraint allows no token where one is needed."""


class ConstraintRuntimeError(GenerationError):
    """A matcher failed at run time, or the caller's own mask function raised."""


class EngineError(GenerationError):
    """The engine failed in the middle of a step."""


class RetryableError(GenerationError):
    """What may go well later. ``retry_after``: in how many seconds, where that is known."""

    retryable = True

    def __init__(self, message: str, *, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after = retry_after


class OverloadedError(RetryableError):
    """Too many requests are waiting."""


class ConnectionLostError(RetryableError):
    """The connection, or the process at its end, is gone, and the request could not be resumed."""


class RequestCancelledError(GenerationError):
    """The request was cancelled before it was complete."""


class ModelClosedError(GenerationError):
    """The model was closed while, or before, the request ran."""
