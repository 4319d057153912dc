"""`--workers N` and `--layout GxD`: how many worker processes there are, and what each may use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dcmodel.errors import InvalidRequestError

MAX_WORKERS = 256
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@dataclass(frozen=True, slots=True)
class Layout:
    """So many workers, with so many devices each."""

    workers: int
    devices: int = 0
    """0: devices are not assigned."""

    @classmethod
    def parse(cls, text: str) -> Layout:
        """``GxD``, such as ``4x2``: four workers with two devices each."""
        match = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", text)
        if match is None:
            raise InvalidRequestError(
                f"--layout {text!r} is no layout.", remedy="Write WORKERSxDEVICES: 4x1, 2x4."
            )
        return cls.of(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, workers: int, devices: int = 0) -> Layout:
        """Raises `InvalidRequestError` for a number of workers that cannot be meant."""
        if not 1 <= workers <= MAX_WORKERS:
            raise InvalidRequestError(
                f"{workers} workers are asked for.", remedy=f"Give a number from 1 to {MAX_WORKERS}."
            )
        return cls(workers, devices)

    def environments(
        self, environ: Mapping[str, str], *, cores: int, variable: str = "CUDA_VISIBLE_DEVICES"
    ) -> list[dict[str, str]]:
        """What each worker's environment has instead of, or besides, ours.

        Devices are taken in order from those that `variable` shows already, if it is set, else from 0 on.
        Without devices, workers share the cores, unless the environment says how many threads to use.
        """
        if self.devices:
            groups = self._groups(environ.get(variable))
            return [{variable: ",".join(group)} for group in groups]
        threads = str(max(cores // self.workers, 1))
        missing = [name for name in THREAD_VARIABLES if name not in environ]
        alone = self.workers == 1 or len(missing) < len(THREAD_VARIABLES)
        return [{} if alone else dict.fromkeys(missing, threads) for _ in range(self.workers)]

    def _groups(self, visible: str | None) -> list[list[str]]:
        wanted = self.workers * self.devices
        names = [str(number) for number in range(wanted)]
        if visible is not None:
            names = [name.strip() for name in visible.split(",") if name.strip()]
        if len(names) < wanted:
            raise InvalidRequestError(
                f"the layout {self.workers}x{self.devices} needs {wanted} devices; {len(names)} are visible.",
                remedy="Ask for fewer, or make more of them visible.",
            )
        return [names[start : start + self.devices] for start in range(0, wanted, self.devices)]


def device_variable(environ: Mapping[str, str], *, has_rocm: bool) -> str:
    """Which variable assigns devices: the one that is set already, else what the machine's driver reads."""
    for name in DEVICE_VARIABLES:
        if name in environ:
            return name
    return DEVICE_VARIABLES[1 if has_rocm else 0]
