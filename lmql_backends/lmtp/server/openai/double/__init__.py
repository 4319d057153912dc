"""The server as the double of another endpoint, for tests of whoever calls one (docs/openai-double.md).

limits          what an endpoint takes and shows    admission, prompts, forms, strict_schemas    bodies
shaping         answers cut to that                 shaper          one answer on its way
processed       log-probabilities after the bias    refusals        errors as OpenAI words them
rates           limits per minute                   faults, plan    what fails, and when
happening       faults of whole answers             stream_faults, merging                       of streams
decisions       /v1/decisions
double          all of it around the real routes
"""

from lmql_backends.lmtp.server.openai.double.double import Double, Record
from lmql_backends.lmtp.server.openai.double.limits import PRESETS, OpenAILimits, limits_from
from lmql_backends.lmtp.server.openai.double.plan import FaultPlan, plan_from, read_plan
from lmql_backends.lmtp.server.openai.double.rates import RateLimits

__all__ = [
    "PRESETS",
    "Double",
    "FaultPlan",
    "OpenAILimits",
    "RateLimits",
    "Record",
    "limits_from",
    "plan_from",
    "read_plan",
]
