from made_runs import compared, made_run
from svdistill.report.accuracy import Headline, headline
from svdistill.report.runs import Run

SVD = {"loss": "svd", "teacher": "t"}
SOFT = {"loss": "soft_target", "teacher": "t"}
TEACHER = made_run("t", "vgg_teacher", accuracies=(80.0,))


def said(*runs: Run) -> Headline:
    return headline(compared(*runs))


def seeds(name: str, accuracies: list[float], **options: object) -> list[Run]:
    return [
        made_run(f"{name}{seed}", accuracies=(accuracy,), seed=seed, **options)
        for seed, accuracy in enumerate(accuracies)
    ]


def test_the_best_way_to_teach_is_named_with_its_gain_in_every_seed() -> None:
    found = said(
        TEACHER,
        *seeds("a", [60.0, 62.0, 61.0]),
        *seeds("b", [63.0, 61.0, 65.0], **SVD),
        *seeds("c", [59.0, 59.0, 59.0], **SOFT),
    )
    labels = [label for label, _ in found.numbers]
    assert labels == ["teacher, %", "student alone, %", "SVD, %", "gain, points"]
    assert [cell.text for _, cell in found.numbers][3].startswith("+2.00 ± ")
    assert "best of 2 methods is SVD: 2.00 points above the student alone" in found.sentences
    assert "above it with 2 of 3 seeds" in found.sentences


def test_svd_is_spoken_of_also_where_it_lost() -> None:
    found = said(
        TEACHER,
        *seeds("a", [60.0, 62.0]),
        *seeds("b", [58.0, 60.0], **SVD),
        *seeds("c", [70.0, 70.0], **SOFT),
    )
    assert "best of 2 methods is soft target" in found.sentences
    assert "By singular vectors the best is SVD: 2.00 points below" in found.sentences


def test_one_seed_claims_no_spread() -> None:
    found = said(*seeds("a", [60.0]), *seeds("b", [59.0], **SVD))
    assert "1.00 points below the student alone, with one seed" in found.sentences


def test_what_cannot_be_compared_is_said() -> None:
    assert "unknown" in said(TEACHER, *seeds("b", [59.0], **SVD)).sentences
    alone = said(TEACHER, *seeds("a", [60.0]))
    assert "nothing to compare" in alone.sentences
    assert [label for label, _ in alone.numbers] == ["teacher, %", "student alone, %"]


def test_a_teacher_that_is_no_better_is_named() -> None:
    weak = made_run("t", "vgg_teacher", accuracies=(60.0,))
    runs = [*seeds("a", [60.0]), *seeds("b", [61.0], **SVD)]
    assert "had little to teach" in said(weak, *runs).sentences
    assert "had little to teach" not in said(TEACHER, *runs).sentences
