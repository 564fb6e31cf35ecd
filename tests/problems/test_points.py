import pytest
import torch

from secant.problems.points import cube_boundary, grid, sobol


def test_sobol_points_are_distinct_and_inside_the_cube() -> None:
    points = sobol(1000, 3, seed=1)
    assert points.shape == (1000, 3)
    assert points.dtype == torch.float64
    assert points.min() >= 0.0
    assert points.max() < 1.0
    assert len(torch.unique(points, dim=0)) == 1000


@pytest.mark.parametrize(("count", "dimension"), [(400, 2), (800, 3), (7, 2)])
def test_boundary_points_share_the_faces_evenly(count: int, dimension: int) -> None:
    points = cube_boundary(count, dimension, seed=7)
    assert points.shape == (count, dimension)
    on_face = [int((points[:, axis] == side).sum()) for axis in range(dimension) for side in (0.0, 1.0)]
    assert sum(on_face) == count
    assert max(on_face) - min(on_face) <= 1


def test_every_face_is_covered_from_end_to_end() -> None:
    points = cube_boundary(400, 2, seed=7)
    for axis in range(2):
        for side in (0.0, 1.0):
            along = points[points[:, axis] == side][:, 1 - axis].sort().values
            # 100 points of a low-discrepancy block: no gap wider than a few mean spacings.
            assert torch.diff(along, prepend=torch.zeros(1), append=torch.ones(1)).max() < 0.04


def test_the_last_axis_of_a_grid_runs_fastest() -> None:
    points = grid((torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0, 4.0])))
    assert points.tolist() == [[0.0, 2.0], [0.0, 3.0], [0.0, 4.0], [1.0, 2.0], [1.0, 3.0], [1.0, 4.0]]
