import pytest
import torch

from svdistill_benchmarks import bench_growth, growth
from svdistill_benchmarks.tables import result_tables


def test_one_thing_grows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int, int]] = []
    made = growth.new_workload

    def new_workload(pair, **options):
        workload = made(pair, **options)
        first = next(workload.student.parameters())
        shapes.append((len(workload.images), workload.images.shape[-1], len(first)))
        return workload

    monkeypatch.setattr(growth, "new_workload", new_workload)
    monkeypatch.setattr(growth, "BASE", {"batch": 2, "image size": 16, "width": 0.5})
    axes = {"batch": (1, 3), "image size": (16, 32), "width": (0.5, 1.0)}
    monkeypatch.setattr(growth, "AXES", axes)
    result = bench_growth(rounds=1, width=0.125, device=torch.device("cpu"))
    assert shapes == [(1, 16, 4), (3, 16, 4), (2, 16, 4), (2, 32, 4), (2, 16, 4), (2, 16, 8)]
    assert [point.value for point in result.points] == [1, 3, 16, 32, 0.0625, 0.125]
    assert all(step.median > 0 for point in result.points for step in point.steps)
    table = result_tables(result)[1]
    assert table.title == "ms a step by image size; vgg, batch 2, width 0.0625, noise"
    assert [row[0].text for row in table.rows] == list(growth.METHODS)
