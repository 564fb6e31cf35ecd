"""The same run on an accelerator, where there is one."""

from __future__ import annotations

import pytest
import torch

from conformance.cases import METHOD_CASES, Case

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("case", METHOD_CASES, ids=str)
def test_run_on_the_accelerator_takes_the_path_of_the_cpu(case: Case) -> None:
    paths = []
    for device in ("cpu", "cuda"):
        x = torch.tensor([-1.2, 1.0] * 3, dtype=torch.float64, device=device, requires_grad=True)
        optimizer = case.build([x])
        for _ in range(12):
            optimizer.step(lambda x=x: ((1.0 - x[:-1]) ** 2 + 100.0 * (x[1:] - x[:-1] ** 2) ** 2).sum())
        paths.append(x.detach().cpu())
    torch.testing.assert_close(paths[0], paths[1], rtol=1e-6, atol=1e-8)


def test_state_saved_on_the_accelerator_resumes_there(tmp_path) -> None:
    x = torch.full((5,), 3.0, dtype=torch.float64, device="cuda", requires_grad=True)
    optimizer = Case("ssbroyden").build([x])
    for _ in range(3):
        optimizer.step(lambda: (x**4).sum())
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed = Case("ssbroyden").build([x])
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True, map_location="cuda"))
    assert resumed.curvature.dense_inverse().device.type == "cuda"
