"""``python -m dcmodel`` is the command `dcmodel`."""

import sys

from dcmodel.cli import main

sys.exit(main())
