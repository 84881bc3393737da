"""A teacher's knowledge on disk: computed once, then read instead of running the teacher.

A store is a folder with `manifest.json` (`manifest`) and shards, whose rows hold one image each
(`structure`). `StoreWriter` writes them (`writer`), `KnowledgeStore` reads them (`reading`).
"""

from svdistill.store.manifest import IN_BF16, MANIFEST_NAME, Manifest, read_manifest
from svdistill.store.reading import KnowledgeStore, loss_text, require_fit
from svdistill.store.structure import DTYPES, describe
from svdistill.store.writer import SHARD_IMAGES, Shard, StoreWriter, stored_manifest

__all__ = [
    "DTYPES",
    "IN_BF16",
    "MANIFEST_NAME",
    "SHARD_IMAGES",
    "KnowledgeStore",
    "Manifest",
    "Shard",
    "StoreWriter",
    "describe",
    "loss_text",
    "read_manifest",
    "require_fit",
    "stored_manifest",
]
