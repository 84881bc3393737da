import pickle
import warnings

import pytest
import torch

from svdistill.common.errors import RunError
from svdistill.runs import checkpoint as checkpoint_module
from svdistill.runs.checkpoint import (
    Checkpoint,
    Checkpoints,
    TrainingPosition,
    load_checkpoint,
    save_checkpoint,
)
from tiny_runs import Bomb, flipped

CPU = torch.device("cpu")
POSITION = TrainingPosition(1, 2, 5, 3, 61.5, 60.25, 59.0, 12.5)
EPOCH_STATE = {"steps": 3, "random": {"torch": torch.get_rng_state(), "python": (3, (1, 2), None)}}


def states():
    """State dictionaries of an optimizer that has momentum and a schedule."""
    torch.manual_seed(0)
    network = torch.nn.Linear(30, 10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])
    network(torch.rand(4, 30)).sum().backward()
    optimizer.step()
    schedule.step()
    return {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }


def flat(value):
    if isinstance(value, dict):
        return [item for key in value for item in (key, *flat(value[key]))]
    if isinstance(value, (list, tuple)):
        return [item for entry in value for item in flat(entry)]
    return [value.tolist() if isinstance(value, torch.Tensor) else value]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, Checkpoint(POSITION, states(), EPOCH_STATE))
    return path


# Accelerate numbers the one CPU when there are several processes.
@pytest.mark.parametrize("device", [CPU, torch.device("cpu", 0)], ids=str)
def test_comes_back(path, device):
    position, loaded, epoch_state = load_checkpoint(path, device)
    assert position == POSITION
    assert flat(loaded) == flat(states())
    assert flat(epoch_state) == flat(EPOCH_STATE)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_cut_short(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(
        RunError, match=r"checkpoint\.pt: expected a checkpoint that svdistill wrote"
    ):
        load_checkpoint(path, CPU)


def test_every_flipped_bit_is_noticed(path):
    content = path.read_bytes()
    for place in [*range(0, len(content), 97), *range(len(content) - 60, len(content))]:
        path.write_bytes(flipped(content, place))
        with pytest.raises(RunError, match=r"checksum is wrong|cut short"):
            load_checkpoint(path, CPU)


@pytest.mark.parametrize("change", ["appended", "before", "without"])
def test_other_changes_are_noticed_too(path, change):
    content = path.read_bytes()
    changed = {"appended": content + b"x", "before": b"x" + content, "without": content[:-48]}
    path.write_bytes(changed[change])
    with pytest.raises(RunError, match=r"checksum is wrong|cut short"):
        load_checkpoint(path, CPU)


def with_checksum(path):
    """Let a file end as a checkpoint does, so that what it holds is looked at."""
    content = path.read_bytes()
    digest = checkpoint_module.hashlib.sha256(content).digest()
    path.write_bytes(content + checkpoint_module.MARK + digest)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        3,
        "text",
        torch.zeros(3),
        {"position": {}, "states": {}},
        {"position": [], "states": {}},
        {"position": vars(POSITION)},
        {"position": vars(POSITION), "states": {}},
    ],
    ids=repr,
)
def test_what_is_no_checkpoint(path, content):
    torch.save(content, path)
    with_checksum(path)
    with pytest.raises(RunError, match="start the run again"):
        load_checkpoint(path, CPU)


def test_a_missing_one(tmp_path):
    with pytest.raises(RunError, match="FileNotFoundError"):
        load_checkpoint(tmp_path / "checkpoint.pt", CPU)


@pytest.mark.parametrize("dump", ["pickle", "torch", "torch_legacy", "inside"])
def test_a_pickle_bomb_never_goes_off(path, tmp_path, dump):
    fuse = tmp_path / "exploded"
    if dump == "pickle":
        path.write_bytes(pickle.dumps(Bomb(fuse)))
    elif dump == "inside":
        torch.save({"position": vars(POSITION), "states": {"network": Bomb(fuse)}}, path)
    else:
        torch.save(Bomb(fuse), path, _use_new_zipfile_serialization=dump == "torch")
    with_checksum(path)
    with pytest.raises(RunError):
        load_checkpoint(path, CPU)
    assert not fuse.exists()
    torch.save(Bomb(fuse), path)
    torch.load(path, weights_only=False)
    assert fuse.exists()  # or the above would prove nothing


class TestTheLastTwo:
    @pytest.fixture
    def kept(self, tmp_path):
        kept = Checkpoints(tmp_path)
        for epoch in range(3):
            kept.save(Checkpoint(TrainingPosition(epoch=epoch), states()))
        return kept

    def epoch_of(self, kept, path):
        return load_checkpoint(path, CPU).position.epoch

    def test_are_kept_and_the_newest_is_used(self, kept, tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {
            "checkpoint.pt",
            "checkpoint-previous.pt",
        }
        assert self.epoch_of(kept, kept.previous) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert kept.load(CPU).position.epoch == 2

    @pytest.mark.parametrize("damage", ["bit", "cut", "missing"])
    def test_the_previous_one_is_used_instead_of_a_damaged_one(self, kept, damage):
        content = kept.newest.read_bytes()
        if damage == "missing":
            kept.newest.unlink()
        else:
            kept.newest.write_bytes(flipped(content, 500) if damage == "bit" else content[:-9])
        with pytest.warns(RuntimeWarning, match=r"checkpoint\.pt is damaged or missing: going on"):
            assert kept.load(CPU).position.epoch == 1
        # The damaged one must not take the place of the whole one.
        kept.save(Checkpoint(TrainingPosition(epoch=7), states()))
        assert self.epoch_of(kept, kept.newest) == 7
        assert self.epoch_of(kept, kept.previous) == 1
        kept.save(Checkpoint(TrainingPosition(epoch=8), states()))
        assert self.epoch_of(kept, kept.previous) == 7

    def test_both_damaged(self, kept):
        for path in (kept.newest, kept.previous):
            path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(RunError, match=r"checkpoint-previous\.pt: .* start the run again"):
            kept.load(CPU)

    def test_none_and_removed(self, kept, tmp_path):
        kept.remove()
        assert list(tmp_path.iterdir()) == []
        assert kept.load(CPU) is None
        kept.remove()

    def test_a_write_that_fails_leaves_both(self, kept, tmp_path, monkeypatch):
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def full(content, file):
            file.write(b"some")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint_module.torch, "save", full)
        with pytest.raises(RunError, match=r"checkpoint\.pt: .* No space left on device"):
            kept.save(Checkpoint(TrainingPosition(), {}))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
