import pickle

import pytest
import torch
from tiny_runs import Bomb, flipped

from svdistill.errors import RunError
from svdistill.training.checkpoint import Place, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
PLACE = Place(1, 2, 5, 3, 61.5, 60.25, 59.0, 12.5)


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
    if isinstance(value, list):
        return [item for entry in value for item in flat(entry)]
    return [value.tolist() if isinstance(value, torch.Tensor) else value]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, PLACE, states())
    return path


def test_comes_back(path):
    place, loaded = load_checkpoint(path, CPU)
    assert place == PLACE
    assert flat(loaded) == flat(states())
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_cut_short(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(
        RunError, match=r"checkpoint\.pt: expected a checkpoint that svdistill wrote"
    ):
        load_checkpoint(path, CPU)


def test_a_flipped_bit_is_noticed_or_means_nothing(path):
    content = path.read_bytes()
    noticed = 0
    places = range(0, len(content), 13)
    for place in places:
        path.write_bytes(flipped(content, place))
        try:
            found, loaded = load_checkpoint(path, CPU)
        except RunError:
            noticed += 1
            continue
        assert found == PLACE, place
        assert flat(loaded) == flat(states()), place
    assert noticed > 0.3 * len(places)  # much of so small a file is padding


def test_a_flipped_bit_in_a_weight_is_called_damage(path):
    content = path.read_bytes()
    weight = states()["network"]["weight"].numpy().tobytes()
    path.write_bytes(flipped(content, content.index(weight) + 100))
    with pytest.raises(RunError, match="damaged in "):
        load_checkpoint(path, CPU)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        3,
        "text",
        torch.zeros(3),
        {"place": {}, "states": {}},
        {"place": [], "states": {}},
        {"place": vars(PLACE)},
    ],
    ids=repr,
)
def test_what_is_no_checkpoint(path, content):
    torch.save(content, path)
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
        torch.save({"place": vars(PLACE), "states": {"network": Bomb(fuse)}}, path)
    else:
        torch.save(Bomb(fuse), path, _use_new_zipfile_serialization=dump == "torch")
    with pytest.raises(RunError):
        load_checkpoint(path, CPU)
    assert not fuse.exists()
    torch.save(Bomb(fuse), path)
    torch.load(path, weights_only=False)
    assert fuse.exists()  # or the above would prove nothing
