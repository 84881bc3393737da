"""A teacher's knowledge on disk: computed once, then read instead of running the teacher.

A store is a folder with `manifest.json` and shards, whose rows hold one image each (`manifest`).
`StoreWriter` writes them, `KnowledgeStore` reads them (`shards`).
"""

from svdistill.store.manifest import (
    DTYPES as DTYPES,
    IN_BF16 as IN_BF16,
    MANIFEST_NAME as MANIFEST_NAME,
    Manifest as Manifest,
    describe as describe,
    read_manifest as read_manifest,
)
from svdistill.store.shards import (
    SHARD_IMAGES as SHARD_IMAGES,
    KnowledgeStore as KnowledgeStore,
    Shard as Shard,
    StoreWriter as StoreWriter,
    loss_text as loss_text,
    require_fit as require_fit,
    stored_manifest as stored_manifest,
)
