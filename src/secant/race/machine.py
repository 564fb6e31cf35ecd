"""What a run is timed on: processor, threads and versions. Never a path or a host name."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from secant.race.records import Machine


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Hold torch and every loaded BLAS and OpenMP library to ``threads`` threads inside the block."""
    before = torch.get_num_threads()
    with threadpool_limits(limits=threads):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def this_machine(threads: int) -> Machine:
    """The machine of this process, with the stated number of threads."""
    return Machine(cpu=_cpu_name(), system=f"{platform.system()} {platform.machine()}", threads=threads)


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    if platform.system() == "Darwin":
        answer = subprocess.run(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        if answer.stdout.strip():
            return answer.stdout.strip()
    return platform.processor() or platform.machine() or "unknown"


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of what every run uses, and of the named packages; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in ("secant", "torch", "numpy", "scipy", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package == "secant":
                found[package] = "source tree"
    return found
