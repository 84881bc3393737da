"""Options, settings and public names that the text mentions are ones that there are."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from fences import DOCS, ROOT

import svdistill as sd
from svdistill.cli.parsers import COMMAND_PARSERS, spell

PAGES = [*DOCS.glob("*.md"), ROOT / "README.md"]
OPTION = re.compile(r"(?<![\w-])(--[a-z][\w-]+)")
SETTING = re.compile(r"`(\w+): [\w.+]+`")
NAME = re.compile(r"\bsd\.(\w+)")
OTHERS = {"--logdir", "--no-deps", "--shm-size"}  # of tensorboard, pip, docker
OTHERS |= {"--small", "--count"}  # of the benchmark gpu
# Of Accelerate's launcher, of torchrun, and of SLURM.
OTHERS |= {
    *("--multi_gpu", "--num_processes", "--cpu"),
    *("--nproc_per_node", "--nnodes", "--node_rank", "--master_addr", "--master_port"),
    *("--rdzv_backend", "--rdzv_endpoint", "--rdzv_id"),
    *("--nodes", "--ntasks-per-node", "--gpus-per-node"),
}


@pytest.fixture(scope="module")
def options() -> set[str]:
    return {word for make in COMMAND_PARSERS.values() for word in make()._option_string_actions}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_are_those_of_a_command(page: Path, options: set[str]) -> None:
    written = set(OPTION.findall(page.read_text())) - OTHERS
    assert {spell(["distill", word])[1].partition("=")[0] for word in written} <= options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_are_fields_of_a_configuration(page: Path) -> None:
    fields = {field.name for field in dataclasses.fields(sd.DistillConfig)}
    assert set(SETTING.findall(page.read_text())) <= fields


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_are_public(page: Path) -> None:
    assert set(NAME.findall(page.read_text())) <= set(sd.__all__)
