"""A teacher's knowledge, computed once, kept on disk, and read instead of running the teacher."""

from svdistill.store.manifest import Manifest, read_manifest
from svdistill.store.reading import KnowledgeStore, loss_text, require_fit
from svdistill.store.structure import DTYPES, describe
from svdistill.store.writer import MANIFEST_NAME, SHARD_IMAGES, Shard, StoreWriter

__all__ = [
    "DTYPES",
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
]
