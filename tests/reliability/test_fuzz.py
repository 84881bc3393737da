"""A few hundred of the cases that benchmarks/reliability/fuzz.py runs by the ten thousand."""

import json
import sys
from collections import Counter

import fuzz
import fuzz_checks
import pytest
import torch
from fuzz_cases import Case, make_case
from fuzz_checks import Found, check
from hard_features import BROKEN, DTYPES, ORDINARY, SAMPLES

from svdistill.common.errors import TrainingError
from svdistill.losses import SVDLoss

SEED = 2026


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_hard_cases_are_finite_or_refused_by_name(first):
    found = [(number, *fuzz.run(SEED, number)) for number in range(first, first + 50)]
    failed = [one for one in found if one[-1].outcome not in fuzz.GOOD]
    assert not failed, "\n".join(map(str, failed))
    assert Counter(one[-1].outcome for one in found)["finite"] > 25


def test_a_case_follows_from_its_number():
    first, again, other = make_case(0, 12), make_case(0, 12), make_case(0, 13)
    assert str(first) == str(again) != str(other)
    assert all(map(torch.equal, first.student, again.student))


def test_cases_are_of_every_sort():
    cases = [make_case(0, number) for number in range(150)]
    assert {case.kind for case in cases} >= {"Distiller", "SVDLoss", "SumLoss", "FSPLoss"}
    cases = [case for case in cases if isinstance(case, Case)]
    assert {case.dtype for case in cases} == {*DTYPES}
    assert {case.vectors for case in cases} >= {1, 2, 16}
    assert {kind for case in cases for kind in case.samples} == {*SAMPLES}
    assert {what.split()[0] for case in cases for what in case.broken} == {*BROKEN}


def ordinary_case(**changes):
    torch.manual_seed(0)
    maps = [torch.rand(3, 4, 5, 5), torch.rand(3, 6, 3, 3)]
    teacher = [torch.rand_like(feature) for feature in maps]
    case = Case(
        *("SVDLoss", SVDLoss(2), "auto", "exact", 2, torch.float32, [ORDINARY, "zero", ORDINARY]),
        *(maps, torch.rand(3, 7), teacher, torch.rand(3, 7)),
    )
    for name, value in changes.items():
        setattr(case, name, value)
    return case


class Silent(SVDLoss):
    """Its gradient is NaN where its value is not."""

    def forward(self, features, logits, knowledge):
        return (0 * features[0].sum()).sqrt() + super().forward(features, logits, knowledge)


class Mixing(SVDLoss):
    """Each image's gradient depends on the others."""

    def forward(self, features, logits, knowledge):
        return super().forward([f * f[1].sum() for f in features], logits, knowledge) * (
            1 + features[0][1].sum()
        )


class Crashing(SVDLoss):
    def forward(self, features, logits, knowledge):
        raise torch.linalg.LinAlgError("failed to converge")


class Refusing(SVDLoss):
    def forward(self, features, logits, knowledge):
        raise TrainingError("loss", expected="something else", got="this", remedy="try again")


def test_what_is_well_passes():
    found = check(ordinary_case())
    assert found.outcome == "finite"
    assert found.neighbour_error == 0.0
    assert found.gradient_errors["float32"] < 1e-4
    assert found.defects["float32, auto"] < 1e-5


@pytest.mark.parametrize(
    ("loss", "outcome"),
    [(Silent, "silent"), (Mixing, "neighbours"), (Crashing, "crash"), (Refusing, "unclear")],
)
def test_what_is_not_well_is_noticed(loss, outcome):
    assert check(ordinary_case(loss=loss(2))).outcome == outcome


def test_vectors_and_gradients_that_are_wrong_are_noticed(monkeypatch):
    real = fuzz_checks.truncated_svd

    def turned(matrices, k, **options):
        values, vectors = real(matrices, k, **options)
        return type(real(matrices, k))(values, vectors * 1.001)

    monkeypatch.setattr(fuzz_checks, "truncated_svd", turned)
    assert check(ordinary_case()).outcome == "not orthonormal"

    def damped(matrices, k, **options):
        values, vectors = real(matrices, k, **options)
        return type(real(matrices, k))(
            values, vectors.detach() + 0.5 * (vectors - vectors.detach())
        )

    monkeypatch.setattr(fuzz_checks, "truncated_svd", damped)
    assert check(ordinary_case()).outcome == "wrong gradient"


def test_it_writes_what_it_found_and_says_if_that_is_bad(tmp_path, monkeypatch, capsys):
    output = tmp_path / "numbers.json"
    command = ["fuzz.py", "--cases", "8", "--seed", str(SEED), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    assert fuzz.main() == 0
    written = json.loads(output.read_text())
    assert (written["seed"], written["cases"], written["failures"]) == (SEED, 8, [])
    assert sum(row["cases"] for row in written["kinds"]) == 8
    monkeypatch.setattr(fuzz, "check", lambda case: Found("silent", "a gradient is not finite"))
    assert fuzz.main() == 1
    said = capsys.readouterr().out
    assert f"seed {SEED}" in said
    numbers = [failure["case"] for failure in json.loads(output.read_text())["failures"]]
    assert numbers
    assert all(f"case: {number}\n" in said for number in numbers)
