"""The server as the double of another endpoint, for tests of whoever calls one (docs/openai-double.md).

limits          what an endpoint takes and shows          admission, prompts, forms, strict_schemas    bodies
shaping         answers cut to that                       processed     log-probabilities after the bias
double          all of it around the real routes          refusals      errors as OpenAI words them
"""

from lmql_backends.lmtp.server.openai.double.double import Double
from lmql_backends.lmtp.server.openai.double.limits import PRESETS, OpenAILimits, limits_from

__all__ = ["PRESETS", "Double", "OpenAILimits", "limits_from"]
