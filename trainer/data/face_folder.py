"""Pictures for AnimeDiffusion: a folder of colour pictures is enough, lines and references are made of them per batch.

Cut as the released loader does: the shorter side becomes `size` (Pillow's bilinear filter), then the middle square. No
flips, no colour changes.
"""

from __future__ import annotations

from trainer.data import decode
from trainer.data.folder import FolderDataset


class FaceDataset(FolderDataset):
    """A `FolderDataset` with the released cut. Gives color (3, S, S) and, where needed, sketch (1, S, S), uint8."""

    picture_filter = decode.BILINEAR
    centred = True
    luma = True
