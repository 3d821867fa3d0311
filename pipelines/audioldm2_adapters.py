# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters of AudioLDM 2's U-Net (2106.09685): loaded, weighed, taken out again, or worked into the weights.

`hubsep train lora` makes them. diffusers' own methods of these names know other U-Nets; the work is done by peft. A
folder is checked as a model's is: adapters are `.safetensors` with finite numbers, and nothing else in it is opened.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from hubsep.errors import CheckpointError, QueryError
from hubsep.hub_bounds import shown
from hubsep.hub_json import read_json
from hubsep.hub_resolve import resolve_folder
from hubsep.hub_tensors import check_finite, read_header


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class AdapterMixin:
    """The part of the pipeline that knows adapters."""

    unet: Any
    _adapted: Any = None

    def load_lora_weights(self, source: str | os.PathLike[str], *, scale: float = 1.0, **hub: Any) -> None:
        """Puts adapters into the U-Net, in place of those that are there.

        Args:
            source: folder or repository.
            scale: how much they count: 0 is nothing, 1 as they were trained.
            **hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            CheckpointError: if that is no adapter of this U-Net, or the U-Net's weights are not in memory.
            QueryError: if `scale` is no number.
        """
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            raise QueryError(f"scale must be a number, got {scale!r}")
        try:
            from peft import PeftModel
        except ImportError as error:
            raise CheckpointError("adapters need peft: pip install 'hubsep[train]'") from error
        if any(parameter.device.type == "meta" for parameter in self.unet.parameters()):
            raise CheckpointError("adapters go into weights that are in memory: load the pipeline without on_demand")
        folder = checked_adapters(resolve_folder(source, **hub))
        self.unload_lora_weights()
        try:
            self._adapted = PeftModel.from_pretrained(self.unet, folder)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{shown(folder.name)} does not fit this U-Net; load the model anew: {shown(reason, 300)}"
            ) from error
        for layer in self._adapted.modules():
            if hasattr(layer, "scale_layer"):
                layer.scale_layer(float(scale))
        self._adapted.requires_grad_(False).eval()

    def unload_lora_weights(self) -> None:
        """Takes the adapters out: the U-Net is as it was."""
        if self._adapted is not None:
            self._adapted.unload()
            self._adapted = None

    def fuse_lora(self) -> None:
        """Works the adapters into the weights, so that the pipeline is saved with them."""
        if self._adapted is None:
            raise QueryError("there are no adapters; load_lora_weights puts some in")
        with torch.no_grad():
            self._adapted.merge_and_unload()
        self._adapted = None

    def write_into(self, folder: Path, *args: Any, **kwargs: Any) -> None:
        """As without adapters, which a folder of the published layout has no place for."""
        if self._adapted is not None:
            raise CheckpointError("call fuse_lora() to save the pipeline with its adapters, or unload_lora_weights()")
        saving: Any = super()
        saving.write_into(folder, *args, **kwargs)


def checked_adapters(folder: Path) -> Path:
    """The folder, if it holds low-rank adapters.

    Raises:
        CheckpointError: naming the file and the reason.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{shown(folder.name)} holds no {name}: it is no folder of adapters.")
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{CONFIG}: peft_type is {shown(config.get('peft_type'))}; LORA is accepted.")
    check_finite(folder / WEIGHTS, read_header(folder / WEIGHTS, name=WEIGHTS), name=WEIGHTS)
    return folder


__all__ = ["AdapterMixin", "checked_adapters"]
