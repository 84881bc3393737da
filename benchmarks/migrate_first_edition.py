"""Bring runs and knowledge stores of the first edition up to date, in place.

    python benchmarks/migrate_first_edition.py RUN_OR_STORE [RUN_OR_STORE ...]

The augmentation and the schedule that were called `seed` are now called `paper`, options that a
run's loss does not read are empty, and a summary holds the number of classes, the image size and
the best epoch counted from 1. Nothing else changes: no weight and no knowledge.
Safe to repeat, also after an interruption. Checkpoints of unfinished runs cannot be resumed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from svdistill.common import write_atomically
from svdistill.losses import unread_options
from svdistill.runs import EpochRecord, read_card, read_records
from svdistill.store.manifest import Manifest, read_manifest, write_manifest
from svdistill.store.shards import DIGEST_BYTES, MANIFEST_NAME, Shard, all_shards


def main(paths: list[str]) -> int:
    """Migrate each path; 2 if one is neither a run nor a store."""
    for path in map(Path, paths):
        if (path / MANIFEST_NAME).exists():
            migrate_store(path)
        elif (path / "config.yaml").exists():
            migrate_run(path)
        else:
            print(f"{path}: expected a run directory or a knowledge store; check the path")
            return 2
        print(f"{path}: up to date")
    return 0


def migrate_run(run: Path) -> None:
    """Rename the paper's augmentation and schedule; empty unread options; correct the summary."""
    config, summary = run / "config.yaml", run / "summary.json"
    text = re.sub(r"^(augmentation|schedule): seed$", r"\1: paper", config.read_text(), flags=re.M)
    if loss := re.search(r"^loss: (\S+)$", text, flags=re.M):
        unread = "|".join(unread_options(loss[1])) or "(?!)"
        text = re.sub(rf"^({unread}): .*$", r"\1: null", text, flags=re.M)
    write_atomically(config, lambda temporary: temporary.write_text(text))
    values = json.loads(summary.read_text()) if summary.exists() else {}
    if not values:
        return
    weights = run / "student.safetensors"
    card = read_card(weights) if weights.exists() else None  # kept results have none
    if card is not None:
        values = {"num_classes": len(card.class_names), "image_size": card.image_size, **values}
    values["best_epoch"] = best_epoch(read_records(run), by_dev=values["best_by"] == "dev")
    content = json.dumps(values, indent=2) + "\n"
    write_atomically(summary, lambda temporary: temporary.write_text(content))


def best_epoch(records: Sequence[EpochRecord], *, by_dev: bool) -> int:
    """The first epoch of the highest accuracy, from 1; the first edition counted from 0."""
    scores = [record.dev_accuracy if by_dev else record.test_accuracy for record in records]
    return 1 + scores.index(max(score or 0.0 for score in scores))


def migrate_store(store: Path) -> None:
    """Rename the augmentation in the manifest, and sign each shard for the new one."""
    before = read_manifest(store / MANIFEST_NAME)
    if before.augmentation != "seed":
        return
    after = replace(before, augmentation="paper")
    for shard in all_shards(before):
        sign(shard, store, before, after)
    write_manifest(store / MANIFEST_NAME, after)


def sign(shard: Shard, store: Path, before: Manifest, after: Manifest) -> None:
    """Replace the digest of a whole shard; one that is damaged or signed already stays."""
    file = shard.file(store)
    content = file.read_bytes() if file.exists() else b""
    rows, stored = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if stored == digest(shard, before, rows):
        signed = rows + digest(shard, after, rows)
        write_atomically(file, lambda temporary: temporary.write_bytes(signed))


def digest(shard: Shard, manifest: Manifest, rows: bytes) -> bytes:
    """The digest of a shard's rows in a store."""
    found = shard.new_digest(manifest)
    found.update(rows)
    result: bytes = found.digest()
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
