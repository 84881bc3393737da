"""A teacher's knowledge on disk: computed once, then read instead of running the teacher.

A teacher's knowledge is what the transfer loss extracts from the teacher's outputs. A store is a
folder with `manifest.json` (module `manifest`) and shards (module `shards`): files with one row of
bytes for each image. `StoreWriter` writes a store, `KnowledgeStore` reads it, and `require_fit`
checks whether it fits a run.
"""

from svdistill.store.fit import loss_text as loss_text, require_fit as require_fit
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
    stored_manifest as stored_manifest,
)
