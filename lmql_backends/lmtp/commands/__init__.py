"""Commands of `dcmodel` that this package brings, by the entry points ``dcmodel.commands``."""
