"""The trainer's configuration: typed sections, a TOML file, `--section.key value` on the command line."""

from .learning import AdapterSettings, Distill, Gram, Loss, Optimizer
from .section import ConfigError
from .sections import Augment, Data, Model, Report, RunSettings, System
from .toml import PRESETS, build, find_file, load
from .tree import PATHS, Config

__all__ = [
    "PATHS",
    "PRESETS",
    "AdapterSettings",
    "Augment",
    "Config",
    "ConfigError",
    "Data",
    "Distill",
    "Gram",
    "Loss",
    "Model",
    "Optimizer",
    "Report",
    "RunSettings",
    "System",
    "build",
    "find_file",
    "load",
]
