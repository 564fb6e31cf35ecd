"""How much memory is free, and the sentence when it is not enough."""

from __future__ import annotations

from pathlib import Path

import torch


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can be allocated on ``device`` now; None where the system does not tell."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own cache can be used again
    if device.type != "cpu":
        return None
    limits = [limit for limit in (_system_available(), _control_group_available()) if limit is not None]
    return min(limits, default=None)


def require_memory(needed: int, device: torch.device, what: str) -> None:
    """Refuse before an allocation that would fail or swap.

    Raises:
        MemoryError: ``needed`` exceeds what is free; the sentence names both and the limited-memory alternative.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise MemoryError(
            f"{what} needs {in_units(needed)} ({needed} bytes) on {device}, and {in_units(free)} are free. "
            "Use a limited-memory method (secant.LSSBroyden, secant.LBFGS), less history, a smaller model, or float32 parameters. "
            "deepcopy and state_dict double the need."
        )


def in_units(count: int) -> str:
    """Bytes for people: ``in_units(72_000_000)`` is ``'72.0 MB'``."""
    number, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if number < 1000.0:
            break
        number, unit = number / 1000.0, larger
    return f"{number:.1f} {unit}" if unit != "B" else f"{count} B"


def _system_available() -> int | None:
    """Linux's own estimate of what can be allocated without swapping."""
    source = Path("/proc/meminfo")
    if not source.exists():
        return None
    for line in source.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group_available() -> int | None:
    """What the control group (a container's limit) leaves; file cache that the kernel gives back on demand counts as free."""
    group = Path("/sys/fs/cgroup")
    limit, used, parts = group / "memory.max", group / "memory.current", group / "memory.stat"
    if not all(source.exists() for source in (limit, used, parts)) or limit.read_text().strip() == "max":
        return None
    cache = sum(int(line.split()[1]) for line in parts.read_text().splitlines() if line.startswith("inactive_file "))
    return max(0, int(limit.read_text()) - int(used.read_text()) + cache)
