"""lm_eval's command, with the model ``dcmodel``."""

from __future__ import annotations

import sys

from dcmodel.errors import DcModelError
from lmql_backends.lm_eval import register


def main() -> None:
    """Register the model and hand over to lm_eval, which reads the arguments of the command line."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except DcModelError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
