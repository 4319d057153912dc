"""The numpy form of `LogitRows`, which engines without an array library of their own use."""

from dcmodel.sampler.rows import NumpyLogitRows

__all__ = ["NumpyLogitRows"]
