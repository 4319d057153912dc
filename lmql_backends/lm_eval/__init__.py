"""dcmodel as a model of lm-evaluation-harness, under the name ``dcmodel``.

    python -m lmql_backends.lm_eval --model dcmodel --model_args model=... --tasks ...

is lm_eval's own command with this model known to it. In a program, call `register` before
``lm_eval.simple_evaluate(model="dcmodel", ...)``.
"""

from __future__ import annotations

from dcmodel.errors import MissingDependencyError

__all__ = ["NAME", "register"]

NAME = "dcmodel"


def register() -> None:
    """Tell lm_eval of the model; the model's module is imported when it is first used. May be called again.

    lm_eval 0.4 finds models in a table of its own and looks at no entry points, so that somebody has to.
    Raises `MissingDependencyError` where it is not installed.
    """
    try:
        # First its own models: it leaves them out where it finds that its registry is not empty.
        import lm_eval.models  # noqa: F401
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise MissingDependencyError(
            f"the model for lm-evaluation-harness needs it: {error}.",
            remedy='Run: pip install "dcmodel[lm-eval]"',
        ) from error
    if NAME not in model_registry:
        model_registry.register(NAME, target="lmql_backends.lm_eval.model:DcModelLM")
