"""``python -m dcmodel`` is the command `dcmodel`."""

from dcmodel.cli import run

run()
