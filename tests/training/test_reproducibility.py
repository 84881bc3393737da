import itertools

import pytest
import torch
from hypothesis import given, strategies as st

from svdistill.common.errors import ArgumentError, TrainingError
from svdistill.training import distill, run as run_module, train
from svdistill.training.reproducibility import derive_seed, deterministic, require_workspace
from tiny_runs import distill_config, outcome, train_config

PART = st.one_of(st.integers(0, 10**6), st.text("abcdefghij", min_size=1))


@given(st.lists(PART, min_size=1, max_size=5))
def test_fits_every_generator(parts):
    assert 0 <= derive_seed(*parts) < 2**63
    assert derive_seed(*parts) == derive_seed(*parts)


def test_stays_the_same_for_ever():
    """Runs must be repeatable in another process and in another version."""
    assert derive_seed(0, "order", 0, 0) == 1778561849141805087


def test_neighbours_do_not_meet():
    """Neither (1, 23) and (12, 3), nor any two places of a run."""
    places = list(itertools.product([0, 1, 11], ["order", "views"], range(3), range(30)))
    assert len({derive_seed(*place) for place in places}) == len(places)
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed("a", "b") != derive_seed("ab")


RANDOM = {"network": "vgg_student", "width": 0.05, "augmentation": "paper", "epochs": 1}


def settings():
    cudnn = torch.backends.cudnn
    enabled = torch.are_deterministic_algorithms_enabled()
    return enabled, cudnn.deterministic, cudnn.benchmark


def test_torch_is_told_for_the_block_alone():
    before = settings()
    with deterministic(True):
        assert settings() == (True, True, False)
    assert settings() == before
    with deterministic(False):
        assert settings() == before


def in_a_block(work):
    with deterministic(True):
        work()


def put():
    """An operation that torch refuses on every device."""
    torch.zeros(2).put_(torch.tensor([0]), torch.ones(1), accumulate=False)


def fail():
    raise RuntimeError("other")


def test_what_was_set_before_is_set_again():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.raises(RuntimeError, match="other"):
            in_a_block(fail)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_operation_without_a_deterministic_form_is_named():
    with pytest.raises(TrainingError, match=r"deterministic: expected operations .* put_"):
        in_a_block(put)
    put()


@pytest.mark.parametrize("setting", [None, "", ":8:8"])
def test_a_gpu_needs_a_setting_of_cublas(setting, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if setting is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", setting)
    with pytest.raises(ArgumentError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8 svdistill"):
        require_workspace(torch.device("cuda"))
    require_workspace(torch.device("cpu"))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    require_workspace(torch.device("cuda"))


def test_a_run_is_deterministic_where_it_is_asked_to(tmp_path, monkeypatch):
    seen = []
    was = run_module.Trainer.fit
    monkeypatch.setattr(
        run_module.Trainer, "fit", lambda trainer: (seen.append(settings()), was(trainer))[1]
    )
    for wanted in (True, False):
        train(train_config(tmp_path / str(wanted), epochs=1, deterministic=wanted))
    assert [enabled for enabled, *_ in seen] == [True, False]


@pytest.mark.parametrize("loss", ["svd+soft_target", "fsp", "position_svd"])
def test_two_equal_runs_are_equal_bit_by_bit(loss, tmp_path, teacher_run):
    """With dropout, random views and every loss; what is asked of torch refuses none of it."""
    runs = []
    options = {**RANDOM, "teacher_taps": ["stage1", "stage3"], "student_taps": ["stage1", "stage3"]}
    if loss != "position_svd":
        options = {**options, "network": "mobilenet_student", "width": 0.1}
    for name in ("one", "other"):
        config = distill_config(
            tmp_path / name, teacher_run, **options, loss=loss, deterministic=True
        )
        distill(config)
        runs.append(outcome(tmp_path / name))
    assert runs[0] == runs[1]
