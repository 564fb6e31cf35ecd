from __future__ import annotations

import platform

import torch

from secant.race.machine import limited_threads, this_machine, versions


def test_the_machine_names_its_processor_and_never_its_host() -> None:
    machine = this_machine(1)
    assert machine.cpu
    assert platform.node() not in machine.model_dump_json() or not platform.node()


def test_the_threads_are_limited_inside_the_block_only() -> None:
    before = torch.get_num_threads()
    with limited_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_package_that_is_not_installed_has_no_version() -> None:
    found = versions("no-such-package-anywhere")
    assert {"python", "torch", "numpy", "scipy", "secant"} <= found.keys()
    assert "no-such-package-anywhere" not in found
