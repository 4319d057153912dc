"""`make bench`: every script with its defaults, one after the other."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

SCRIPTS = (
    *("masks", "mask_batch", "mask_apply", "sampler", "forced", "json_schema", "boundaries"),
    *("generate", "valid", "score", "sessions", "few_shot", "adapters", "llamacpp"),
    *("lmtp", "lmtp_lmql", "lmtp_protocol", "lmtp_connection"),
    *("openai", "openai_transport", "openai_limits"),
)


def main() -> int:
    worst = 0
    for script in SCRIPTS:
        name = f"benchmarks.{script}"
        if importlib.util.find_spec(name) is None:
            continue
        print(f"\n== {name}", flush=True)
        worst = max(worst, subprocess.run([sys.executable, "-m", name], check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
