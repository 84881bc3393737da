"""A teacher's knowledge, computed once, kept on disk, and read instead of running the teacher."""

from svdistill.knowledge_store.fit import loss_text, require_fit
from svdistill.knowledge_store.manifest import Manifest
from svdistill.knowledge_store.store import KnowledgeStore
from svdistill.knowledge_store.structure import describe
from svdistill.knowledge_store.writer import SHARD_IMAGES, StoreWriter

__all__ = [
    "SHARD_IMAGES",
    "KnowledgeStore",
    "Manifest",
    "StoreWriter",
    "describe",
    "loss_text",
    "require_fit",
]
