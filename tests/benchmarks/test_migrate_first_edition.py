"""Runs and stores of the first edition are read again after one command."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import migrate_first_edition as migration
import svdistill as sd
from svdistill.common.errors import ArgumentError, RunError
from svdistill.config import CacheConfig
from svdistill.runs.directory import read_config
from svdistill.runs.records import read_summary
from svdistill.store.manifest import write_manifest
from svdistill.store.shards import MANIFEST_NAME, all_shards


def test_a_run(teacher_run, tmp_path):
    run = shutil.copytree(teacher_run, tmp_path / "run")
    config, summary = run / "config.yaml", run / "summary.json"
    expected = read_config(config), read_summary(run)
    text = config.read_text().replace("schedule: paper", "schedule: seed")
    config.write_text(text.replace("augmentation: none", "augmentation: seed"))
    values = json.loads(summary.read_text())
    del values["num_classes"], values["image_size"]
    values["best_epoch"] -= 1  # counted from 0
    summary.write_text(json.dumps(values))
    with pytest.raises((ArgumentError, RunError)):
        read_config(config)
    for _ in range(2):  # a second time changes nothing
        assert migration.main([str(run)]) == 0
        assert read_config(config) == replace(expected[0], augmentation="paper")
        assert read_summary(run) == replace(expected[1], directory=str(run))


def test_options_that_the_loss_does_not_read(student_run, tmp_path):
    config = tmp_path / "run" / "config.yaml"
    config.parent.mkdir()
    before = (student_run / "config.yaml").read_text()
    unread = before.replace("nontarget_weight: null", "nontarget_weight: 8.0")
    assert unread != before
    config.write_text(unread)
    assert migration.main([str(config.parent)]) == 0
    assert config.read_text() == before


def test_a_store(teacher_run, tmp_path):
    path = tmp_path / "store"
    config = CacheConfig(output=str(path), teacher=str(teacher_run), data="digits", views=1)
    after = sd.cache_knowledge(config).manifest
    before = replace(after, augmentation="seed")
    for shard in all_shards(after):
        migration.sign(shard, path, after, before)
    write_manifest(path / MANIFEST_NAME, before)
    indices = torch.arange(after.images)
    expected = sd.KnowledgeStore(path).read(indices, 0).tensors()
    assert migration.main([str(path)]) == migration.main([str(path)]) == 0
    migrated = sd.KnowledgeStore(path)
    assert migrated.manifest == after
    found = migrated.read(indices, 0).tensors()
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


def test_something_else(tmp_path, capsys):
    assert migration.main([str(tmp_path)]) == 2
    assert "expected a run directory or a knowledge store" in capsys.readouterr().out
