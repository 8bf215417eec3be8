"""Checkpoints: tensors as safetensors, everything else as YAML beside them. No pickle.

``best.safetensors`` holds the weights to use (the averaged weights if the run averages).
``last.safetensors`` holds everything that a resumed run needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from afdet_train.config import Recipe, parse_recipe
from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError, WriteError
from trt_afdet.support.files import atomic_path
from trt_afdet.support.text import read_text


@dataclass
class Checkpoint:
    """One saved state.

    Attributes:
        recipe: The recipe of the run.
        tensors: Prefix (``model``, ``ema``, ``optim``) -> name -> tensor.
        progress: Plain values: iteration, metrics, scaler state.
    """

    recipe: Recipe
    tensors: dict[str, dict[str, Tensor]]
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights for detection."""
        return self.tensors.get("ema") or self.tensors["model"]


def _paths(path: Path) -> tuple[Path, Path]:
    path = path / "best.safetensors" if path.is_dir() else path
    return path, path.with_suffix(".yaml")


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes ``path`` (.safetensors) and its YAML, each atomically, the tensors first.

    Raises:
        WriteError: If the disk is full or not writable; older files stay unchanged.
    """
    tensors_path, yaml_path = _paths(path)
    flat = {
        f"{prefix}.{name}": tensor.detach().contiguous().cpu().clone()
        for prefix, group in checkpoint.tensors.items()
        for name, tensor in group.items()
    }
    text = yaml.safe_dump(
        {"recipe": checkpoint.recipe.model_dump(mode="json"), "progress": checkpoint.progress},
        sort_keys=False,
    )
    # Both files carry the iteration, so that files of two saves are not mixed.
    stamp = {"iteration": str(checkpoint.progress.get("iteration", 0))}
    with atomic_path(yaml_path) as text_file, atomic_path(tensors_path) as tensor_file:
        try:
            save_file(flat, tensor_file, metadata=stamp)
        except SafetensorError as error:  # the library raises this if the disk is full
            raise WriteError(
                "cannot write checkpoint", got=f"{tensors_path}: {error}", hint="is the disk full?"
            ) from error
        text_file.write_text(text)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint file, or the best checkpoint in the folder of a run.

    Raises:
        MissingFileError, CorruptFileError: If the files are missing or damaged.
    """
    tensors_path, yaml_path = _paths(path)
    for part in (tensors_path, yaml_path):
        if not part.is_file():
            raise MissingFileError(
                "no such checkpoint", got=str(part), hint="a checkpoint is .safetensors + .yaml"
            )
    try:
        raw = yaml.safe_load(read_text(yaml_path))
        recipe, progress = raw["recipe"], raw["progress"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise CorruptFileError("not a checkpoint's YAML", got=str(yaml_path)) from error
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(tensors_path, framework="pt") as reader:
            for key in reader.keys():  # noqa: SIM118 - not a mapping
                prefix, _, name = key.partition(".")
                groups.setdefault(prefix, {})[name] = reader.get_tensor(key)
            stamp = (reader.metadata() or {}).get("iteration")
    except (SafetensorError, OSError) as error:
        raise CorruptFileError(
            "checkpoint cannot be read", got=f"{tensors_path}: {str(error).splitlines()[0]}"
        ) from error
    if "model" not in groups and "ema" not in groups:
        raise CorruptFileError("not a checkpoint of this project", got=str(tensors_path))
    if stamp != str(progress.get("iteration", 0)):
        raise CorruptFileError(
            f"{tensors_path.name} is from iteration {stamp}, "
            f"{yaml_path.name} from {progress.get('iteration')}",
            hint="the two were not saved together",
        )
    return Checkpoint(parse_recipe(recipe, yaml_path.name), groups, progress)


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Loads weights; the error names the first mismatch.

    The meta-selection net may be missing on either side, because detection does not use it.

    Raises:
        InvalidValueError: If a tensor is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in weights:
            if name.startswith("meta."):
                continue
            raise InvalidValueError(
                f"checkpoint {source} does not fit the recipe: it lacks {name}",
                hint="was the recipe's model section changed?",
            )
        if weights[name].shape != tensor.shape:
            raise InvalidValueError(
                f"checkpoint {source} does not fit the recipe: {name} has shape "
                f"{list(weights[name].shape)}, the recipe's network {list(tensor.shape)}"
            )
    extra = [n for n in weights if n not in own and not n.startswith("meta.")]
    if extra:
        raise InvalidValueError(
            f"checkpoint {source} does not fit the recipe: unexpected {extra[0]}",
            hint="was the recipe's model section changed?",
        )
    module.load_state_dict({n: t for n, t in weights.items() if n in own}, strict=False)
