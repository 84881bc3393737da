"""A teacher's knowledge on disk: computed once, then read instead of running the teacher.

A store is a folder with `manifest.json` (`manifest`) and shards, whose rows hold one image each
(`structure`). `StoreWriter` writes them (`writer`), `KnowledgeStore` reads them (`reading`).
"""

from svdistill.store.manifest import (
    IN_BF16 as IN_BF16,
    MANIFEST_NAME as MANIFEST_NAME,
    Manifest as Manifest,
    read_manifest as read_manifest,
)
from svdistill.store.reading import (
    KnowledgeStore as KnowledgeStore,
    loss_text as loss_text,
    require_fit as require_fit,
)
from svdistill.store.structure import DTYPES as DTYPES, describe as describe
from svdistill.store.writer import (
    SHARD_IMAGES as SHARD_IMAGES,
    Shard as Shard,
    StoreWriter as StoreWriter,
    stored_manifest as stored_manifest,
)
