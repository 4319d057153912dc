"""Our models in LMQL's own runtime, in process: import this, then ``lmql.model("dcmodel:")``.

Works with LMQL 0.7.3, unmodified (docs/lmql.md). Importing this module
imports lmql and registers the prefix.
"""

from lmql_backends.lmql.client import DcModelClient
from lmql_backends.lmql.registration import PREFIX, as_lmql, register

__all__ = ["PREFIX", "DcModelClient", "as_lmql", "register"]

register()
