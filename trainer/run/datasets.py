"""The pictures of a run."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.cache.encodings import CachedParts
from trainer.config import Config
from trainer.data.face_folder import FaceDataset
from trainer.data.folder import FolderDataset
from trainer.stages import table


def build_dataset(config: Config) -> FolderDataset:
    """The pictures of a run, with the parts its stage needs."""
    data, row, output = config.data, table.row(config), Path(config.run.output)
    kind = FaceDataset if row.warps else FolderDataset
    return kind(
        data.folder,
        data.size,
        data.reference,
        config.run.seed,
        data.cache,
        table.needs_of(config),
        0.0 if row.warps else data.deform,
        bend_kind=data.deform_kind,
        index_files=data.index,
        groups=data.groups,
        min_score=data.min_score,
        min_side=data.min_side,
        styles=data.sketch_styles,
        bucket_step=data.bucket_step,
        bucket_ratio=data.bucket_ratio,
        bucket_order=data.bucket_order,
        bucket_sides=data.bucket_sides,
        batch=config.optimizer.batch * int(os.environ.get("WORLD_SIZE", 1)),
        augment=config.augment,
        decoded_folder=data.decoded_folder,
        cached=CachedParts(config, row.encodings(config)) if data.cache_folder else None,
        unreadable=output / "unreadable.jsonl" if output.is_dir() else None,
    )
