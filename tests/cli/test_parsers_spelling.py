import pytest

from svdistill.cli.parsers import explain


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("train", "--lr", "learning_rate"),
        ("distill", "--bs", "batch_size"),
        ("train", "--batchsize", "batch_size"),
        ("train", "--batch-sise", "batch_size"),
        ("distill", "--LR", "learning_rate"),
        ("train", "--num-workers", "workers"),
        ("train", "--precison", "precision"),
        ("train", "--dataset=digits", "data"),
        ("info", "--widht", "width"),
        ("cache", "--bs", "batch_size"),
    ],
)
def test_a_word_of_other_programs_and_a_typo_get_the_option(command, typed, meant):
    assert explain("unrecognized", [command, typed]).endswith(f"did you mean '--{meant}'?")


def test_an_option_of_another_command_is_not_proposed():
    assert "learning_rate" not in explain("unrecognized", ["info", "--lr"])
