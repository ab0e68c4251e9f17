"""Reading golden files: one safetensors file per case, with `inputs.*`, `outputs.*`, `weights.*` and a JSON config.

Three ways of giving weights are understood: in the file itself (float16 ones are exact copies of float32 ones), in
further files that the config lists (`weights_files`), or rebuilt from names, shapes and a seed (see weights.py).
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import safe_open

from . import weights as recipes

SHIPPED = Path(__file__).parent / "data"
"""The subset of the golden files that is part of the repository."""


@dataclass(frozen=True)
class Golden:
    """One case: what went in, what came out, and what is known about how. Floating tensors are float32."""

    name: str
    """Name of the case (which module answers it), from the config, else from the file."""
    path: Path
    config: dict
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    more: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    """Further groups some files have, for example a second set of weights."""

    @property
    def constructor(self) -> dict:
        """Sizes of the network, as the file's author called it."""
        for key in ("constructor", "arguments", "args"):
            if key in self.config:
                return self.config[key]
        return {}

    @property
    def runs(self) -> dict[str, dict]:
        """Settings of each run, by the name its outputs carry."""
        return self.config.get("runs", {})

    def listed(self, prefix: str) -> list[torch.Tensor]:
        """The inputs `prefix.0`, `prefix.1`, ... as a list."""
        found = []
        while f"{prefix}.{len(found)}" in self.inputs:
            found.append(self.inputs[f"{prefix}.{len(found)}"])
        return found


def golden_folder() -> Path | None:
    """The full set: $GOLDEN_DIR, else `shared/golden` beside the checkout; None when neither is there."""
    if given := os.environ.get("GOLDEN_DIR"):
        if not Path(given).is_dir():
            raise ValueError(f"GOLDEN_DIR is {given}, and there is no such folder.")
        return Path(given)
    beside = Path(__file__).resolve().parents[3] / "shared" / "golden"
    return beside if beside.is_dir() else None


def case_files(folder: Path) -> dict[str, Path]:
    """File stem -> file of every case in `folder`, sorted; shards of weights are not cases."""
    found = sorted(folder.glob("*.safetensors"))
    return {path.stem: path for path in found if not re.search(r"\.weights\d*$", path.stem)}


def read_config(path: Path) -> dict:
    """The JSON config of a file, without reading tensors. {} for a safetensors file that is no golden file."""
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("config", "{}"))


def case_name(path: Path, config: dict) -> str:
    """The case a file belongs to: what its config says, else the file's name."""
    return config.get("case") or config.get("name") or path.stem


def load(path: Path) -> Golden:
    """Read one case with everything it needs. ValueError when a group is unknown or weights cannot be rebuilt."""
    tensors, metadata = _read(path)
    config = json.loads(metadata["config"])
    groups: dict[str, dict[str, torch.Tensor]] = {"inputs": {}, "outputs": {}, "weights": {}}

    if shared := config.get("inputs_from"):
        groups["inputs"].update(_shared_inputs(path, shared))
    for shard in _weight_shards(config):
        part, _ = _read(path.with_name(shard))
        groups["weights"].update({k.removeprefix("weights."): v for k, v in part.items() if k.startswith("weights.")})
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = tensor

    _rebuild_weights(path, config, metadata, groups)
    return Golden(
        name=case_name(path, config),
        path=path,
        config=config,
        inputs=groups.pop("inputs"),
        outputs=groups.pop("outputs"),
        weights=groups.pop("weights"),
        more=groups,
    )


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        metadata = file.metadata() or {}
    if "config" not in metadata:
        raise ValueError(f"{path} is no golden file: its metadata has no `config`.")
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}, metadata


def _shared_inputs(path: Path, sentence: str) -> dict[str, torch.Tensor]:
    """Inputs lent by another case: `CASE` lends all of them, `CASE (x, control.*)` those that match."""
    name, _, patterns = sentence.partition("(")
    wanted = [pattern.strip() for pattern in patterns.rstrip(") ").split(",") if pattern.strip()] or ["*"]
    lender, _ = _read(path.with_name(f"{name.strip()}.safetensors"))
    inputs = {k.removeprefix("inputs."): v for k, v in lender.items() if k.startswith("inputs.")}
    return {k: v for k, v in inputs.items() if any(fnmatchcase(k, pattern) for pattern in wanted)}


def _weight_shards(config: dict) -> list[str]:
    """Files whose weights come first: the list `weights_files`, or the one file `weights_file`."""
    shards = list(config.get("weights_files", []))
    if one := config.get("weights_file"):
        shards.append(one if one.endswith(".safetensors") else f"{one}.safetensors")
    return shards


def _rebuild_weights(path: Path, config: dict, metadata: dict[str, str], groups: dict) -> None:
    """Fill groups["weights"] by the recipe the config names, and check the result against the recorded sums."""
    info = config.get("weights")
    if not isinstance(info, dict):
        return
    kind, weights = info.get("kind", "none"), groups["weights"]
    if kind == "procedural":
        weights.update(recipes.stream_weights(json.loads(metadata["weights_shapes"]), info["seed"], info.get("gains")))
    elif kind == "recipe":
        rebuilt = recipes.numbered_weights(_key_shapes(path.parent, info["keys"]), info["base_seed"], info["gain"])
        outputs = groups["outputs"]
        if "recipe_first" in outputs:  # part of the recipe, not an answer of the network
            recipes.check_numbered(rebuilt, outputs.pop("recipe_first"), outputs.pop("recipe_sum"))
        if "extra" in info:
            recipes.apply_extra(rebuilt, info["extra"])
        weights.update(rebuilt)
    elif kind not in ("explicit", "none"):
        raise ValueError(
            f"{path.name}: weights of kind {kind!r} are unknown; known: explicit, procedural, recipe, none."
        )
    if kind in ("procedural", "explicit") and "check" in info:
        recipes.check_sums(weights, info["check"])


def _key_shapes(folder: Path, sentence: str) -> dict[str, list[int]]:
    """Key list a recipe names: `keys/FILE.json`, or `keys of keys/FILE.json that start with 'P', ... removed`."""
    name = re.search(r"keys/[\w.-]+\.json", sentence)
    if name is None:
        raise ValueError(f"No key list is named in {sentence!r}.")
    shapes = key_list(Path(name[0]).name, folder)
    prefix = re.search(r"start with '([^']+)'", sentence)
    if prefix:
        shapes = {key.removeprefix(prefix[1]): shape for key, shape in shapes.items() if key.startswith(prefix[1])}
    return shapes


def key_list(file_name: str, *folders: Path) -> dict[str, list[int]]:
    """Key -> shape from `keys/file_name`, looked for in `folders`, in the full set, then in the shipped subset."""
    searched = [folder for folder in (*folders, golden_folder(), SHIPPED) if folder is not None]
    for folder in searched:
        path = folder / "keys" / file_name
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    raise ValueError(f"Key list keys/{file_name} is in none of {', '.join(map(str, searched))}.")
