"""`dcmodel replicate init`: a folder that is ready for `cog push`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dcmodel.cli.output import Output
from dcmodel.errors import InvalidRequestError
from lmql_backends.replicate.cog.folder import Plan, default_requirement, write_folder

EPILOG = """examples:
  dcmodel replicate init tiny                           the embedded model, on a CPU
  dcmodel replicate init chat --model org/model --gpu   a model of the Hub, which the build downloads
  dcmodel replicate init mine --model path/to/model     its files are copied into the folder

then, with Docker and cog installed (docs/replicate.md):
  cd FOLDER && cog login && cog push r8.im/OWNER/NAME

and on any machine:
  LLM("replicate:OWNER/NAME")"""


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "replicate",
        help="Make a predictor for Replicate.",
        description="Make a predictor for Replicate.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    init: argparse.ArgumentParser = actions.add_parser(
        "init",
        help="Write a folder that is ready for `cog push`.",
        description="Write a folder that is ready for `cog push`.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    init.add_argument("folder", type=Path, metavar="FOLDER", help="made where it is missing")
    init.add_argument(
        "--model", metavar="NAME", help="a folder, a .gguf file or a Hub id; default: the embedded model"
    )
    init.add_argument("--backend", metavar="NAME", help="what runs it; default: as its form says")
    init.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a LoRA adapter that requests may name; repeatable",
    )
    init.add_argument("--gpu", action="store_true", help="build for a machine with a GPU")
    init.add_argument(
        "--max-predictions",
        type=int,
        default=32,
        metavar="N",
        help="predictions that one machine runs side by side (default: %(default)s)",
    )
    init.add_argument(
        "--requirement",
        action="append",
        metavar="LINE",
        help=f"what pip installs for dcmodel in the image (default: {default_requirement()}); repeatable",
    )
    init.add_argument("--force", action="store_true", help="replace files that are there")
    init.add_argument("--json", action="store_true", help="print what was written as one JSON object")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace, output: Output) -> int:
    plan = Plan(
        model=args.model,
        backend=args.backend,
        adapters=dict(map(_adapter, args.adapter)),
        has_gpu=args.gpu,
        max_predictions=args.max_predictions,
        requirements=tuple(args.requirement or ()),
    )
    written = write_folder(args.folder, plan, force=args.force)
    if args.json:
        output.json({"folder": str(args.folder), "files": [str(path) for path in written]})
        return 0
    output.line(f"Wrote {', '.join(str(path) for path in written)} into {args.folder}.")
    output.line(f"Next: cd {args.folder} && cog push r8.im/OWNER/NAME")
    return 0


def _adapter(text: str) -> tuple[str, str]:
    name, separator, source = text.partition("=")
    if not separator or not source:
        raise InvalidRequestError(f"--adapter is {text!r:.200}.", remedy="Write it as NAME=PATH.")
    return name, source
