"""The workflows load the same tiny models as the tests of the method."""

from tests.model_patches.conftest import encoder, folders

__all__ = ["encoder", "folders"]
