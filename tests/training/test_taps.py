from types import SimpleNamespace

import pytest
import torch
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.config import CacheConfig
from svdistill.networks import build_network
from svdistill.taps import FeatureTaps, TapPairs
from svdistill.training.taps import paired_taps, taps_of_store, taps_without_student
from tiny_runs import distill_config

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def seed(width=0.1):
    return build_network("mobilenet_student", 10, width)


def plain(*channels):
    """Convolutions that halve the map."""
    layers = [
        nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.Conv2d(b, b, 1), nn.ReLU())
        for a, b in zip((3, *channels), channels, strict=False)
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))


def config(**changes):
    return distill_config("run", "teacher", **changes)


class TestPairedTaps:
    def test_of_the_seeds_networks_are_their_own(self):
        taps = paired_taps(config(), seed(), seed(0.2), IMAGES, needed=True)
        stages = ("stage1", "stage2", "stage3", "stage4")
        assert taps.pairs == TapPairs(stages, stages)
        assert {row.why for row in taps.rows} == {"the paper's"}
        assert all(row.needs_adapter for row in taps.rows)

    def test_that_are_chosen_are_said_to_be(self):
        chosen = config(teacher_taps=["0", "1"], student_taps=["stage1", "stage4"])
        taps = paired_taps(chosen, plain(8, 12), seed(), IMAGES, needed=True)
        assert taps.pairs == TapPairs(("0", "1"), ("stage1", "stage4"))
        assert {row.why for row in taps.rows} == {"chosen by you"}

    def test_of_one_network_beside_the_seeds_own(self):
        chosen = config(teacher_taps=["0", "1", "2", "3"])
        taps = paired_taps(chosen, plain(8, 12, 12, 12), seed(), IMAGES, needed=True)
        assert taps.pairs.student == ("stage1", "stage2", "stage3", "stage4")

    def test_of_other_networks_are_found(self):
        taps = paired_taps(config(), plain(8, 12), plain(4, 6), IMAGES, needed=True)
        assert taps.pairs == TapPairs(("0", "1"), ("0", "1"))
        assert paired_taps(config(), seed(), plain(4, 6), IMAGES, needed=True).pairs.student == (
            "0",
            "1",
        )

    @pytest.mark.parametrize(
        ("chosen", "missing"), [("teacher_taps", "student_taps"), ("student_taps", "teacher_taps")]
    )
    def test_of_one_network_alone(self, chosen, missing):
        with pytest.raises(ArgumentError, match=rf"^{missing}: .*give --{missing}"):
            paired_taps(
                config(**{chosen: ["0", "1"]}), plain(8, 12), plain(4, 6), IMAGES, needed=True
            )

    @pytest.mark.parametrize("option", ["teacher_taps", "student_taps"])
    def test_that_are_misspelt(self, option):
        with pytest.raises(ArgumentError, match=rf"^{option}: .*'stage9'.*did you mean"):
            paired_taps(config(**{option: ["stage9"]}), seed(), seed(), IMAGES, needed=True)

    def test_are_none_where_the_loss_reads_logits_alone(self):
        none = TapPairs((), ())
        assert paired_taps(config(), nn.Flatten(), nn.Flatten(), IMAGES, needed=False) == none
        assert paired_taps(config(), seed(), seed(), IMAGES, needed=False) == none
        misspelt = config(student_taps=["stage9"])
        with pytest.raises(ArgumentError, match=r"'stage9'.*did you mean"):
            paired_taps(misspelt, seed(), seed(), IMAGES, needed=False)
        with pytest.raises(ArgumentError, match=r"^taps: expected two stages or more"):
            paired_taps(config(), nn.Flatten(), nn.Flatten(), IMAGES, needed=True)


class TestWithoutStudent:
    def taps(self, teacher, **changes):
        fields = CacheConfig(output="store", teacher="teacher", views=1, **changes)
        return taps_without_student(fields, teacher, IMAGES)

    def test_are_the_chosen_ones_or_the_seeds_own(self):
        assert self.taps(plain(8, 12), teacher_taps=["1"]) == ("1",)
        assert self.taps(seed()) == ("stage1", "stage2", "stage3", "stage4")

    def test_are_else_the_last_stages(self):
        assert self.taps(plain(4, 5, 6)) == ("0", "1", "2")

    def test_of_an_isotropic_network_are_blocks_at_even_depths(self):
        blocks = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)) for _ in range(8)]
        assert self.taps(nn.Sequential(*blocks)) == ("1", "3", "5", "7")

    def test_are_none_for_logits_alone(self):
        assert self.taps(plain(4, 5), loss="soft_target") == ()


class TestOfStore:
    def known(self, teacher, taps):
        recording = FeatureTaps(teacher, taps).run(IMAGES)
        told = tuple(tuple(feature.shape[1:]) for feature in recording.features)
        return SimpleNamespace(teacher_taps=tuple(taps), tap_shapes=told)

    def test_with_shapes_tell_the_channels_of_both(self):
        known = self.known(seed(), ("stage1", "stage2"))
        chosen = config(student_taps=["0", "1"])
        taps = taps_of_store(chosen, known, plain(4, 6), IMAGES, needed=True)
        assert [(row.teacher.channels, row.student.channels) for row in taps.rows] == [
            (12, 4),
            (24, 6),
        ]

    def test_are_found_by_the_sizes_of_the_teachers(self):
        known = self.known(plain(8, 9, 10), ("1", "2"))
        taps = taps_of_store(config(), known, plain(4, 5, 6), IMAGES, needed=True)
        assert taps.pairs == TapPairs(("1", "2"), ("1", "2"))

    def test_fewer_than_the_teachers(self):
        known = self.known(plain(8, 9, 10), ("0", "1", "2"))
        with pytest.raises(ArgumentError, match=r"^student_taps: .*0, 1, 2, got 0, 1; give"):
            taps_of_store(config(), known, plain(4, 5), IMAGES, needed=True)
        with pytest.raises(ArgumentError, match=r"^student_taps: .*got stage1; give"):
            taps_of_store(config(student_taps=["stage1"]), known, seed(), IMAGES, needed=True)

    def test_are_none_for_logits_alone(self):
        known = self.known(seed(), ("stage1", "stage2"))
        taps = taps_of_store(config(), known, seed(), IMAGES, needed=False)
        assert taps == TapPairs((), ())
