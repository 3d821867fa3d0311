# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters of AudioLDM 2's U-Net (2106.09685): loaded, weighed, taken out again, or worked into the weights.

`hubsep train lora` makes them. diffusers' own methods of these names know other U-Nets. A folder is read by
`hubsep.adapters`, as that of a separation model: peft is not shown it, and adds matrices to the U-Net only when
every tensor was found to fit. The U-Net's own weights are never written until `fuse_lora`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hubsep.adapters import Adapter, matrices_of, put_in, read_adapter
from hubsep.errors import CheckpointError, QueryError
from hubsep.hub.bounds import is_number, shown
from hubsep.hub.matrices import merge, take_out

from .folder import Folder


class Adapters(Folder):
    """The rung that knows adapters."""

    _adapter: Adapter | None = None

    def load_lora_weights(self, source: str | os.PathLike[str], *, scale: float = 1.0, **hub: Any) -> None:
        """Puts adapters into the U-Net, in place of those that are there.

        Args:
            source: folder or repository.
            scale: how much they count: 0 is nothing, 1 as they were trained.
            **hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            CheckpointError: if that is no adapter of this U-Net, or the U-Net's weights are not in memory. What was
                loaded before stays.
            QueryError: if `scale` is no finite number.
        """
        if not is_number(scale):
            raise QueryError(f"scale must be a finite number, got {shown(scale)}")
        if any(parameter.device.type == "meta" for parameter in self.unet.parameters()):
            raise CheckpointError("adapters go into weights that are in memory: load the pipeline without on_demand")
        adapter = read_adapter(source, with_facts=False, **hub)
        before, replaced = self._adapter, self._take_out()
        try:
            put_in(self.unet, adapter, matrices_of(self.unet, adapter, {}))
        except CheckpointError:
            for name, layer in replaced.items():
                self.unet.set_submodule(name, layer)
            self._adapter = before
            raise
        self._adapter = adapter
        for module in self.unet.modules():
            if hasattr(module, "scale_layer"):
                module.scale_layer(float(scale))

    def unload_lora_weights(self) -> None:
        """Takes the adapters out: the U-Net is as it was, bit for bit."""
        self._take_out()

    def _take_out(self) -> Mapping[str, nn.Module]:
        """Takes the adapters out; returns the layers with them, by name."""
        layers = take_out(self.unet) if self._adapter is not None else {}
        self._adapter = None
        return layers

    def fuse_lora(self) -> None:
        """Works the adapters into the weights, so that the pipeline is saved with them."""
        if self._adapter is None:
            raise QueryError("there are no adapters; load_lora_weights puts some in")
        merge(self.unet)
        self._adapter = None

    def write_into(self, folder: Path, *args: Any, **kwargs: Any) -> None:
        """As without adapters, which a folder of the published layout has no place for."""
        if self._adapter is not None:
            raise CheckpointError("call fuse_lora() to save the pipeline with its adapters, or unload_lora_weights()")
        super().write_into(folder, *args, **kwargs)


__all__ = ["Adapters"]
