# SPDX-License-Identifier: Apache-2.0
"""What diffusers' pipelines offer beside a call: switches of attention and autoencoder, and copies that share weights.

Those that AudioLDM 2 has work as in diffusers; those that it has not, or that this machine cannot do, are refused in
one sentence. What needs no word of ours (`set_progress_bar_config`, `components`, ...) is diffusers' own.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hubsep.errors import QueryError
from hubsep.hub.bounds import is_whole
from hubsep.hub.models import check_folder
from hubsep.hub.resolve import resolve_folder

from .loading.components import COMPONENTS, OPTIONAL
from .prompts import Prompts


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from typing_extensions import Self


class Switches(Prompts):
    """The rung that has diffusers' switches."""

    def set_attention_slice(self, slice_size: str | int | None) -> None:
        """Computes attention in slices, which takes less memory and more time; None for all at once.

        Args:
            slice_size: "auto" for half of the heads, "max" for one head at a time, or how many at a time.

        Raises:
            QueryError: if that is neither, or more than the smallest attention of the U-Net has heads.
        """
        whole = is_whole(slice_size)
        if not (whole or slice_size in (None, "auto", "max")):
            raise QueryError(f'slice_size must be "auto", "max", None or a number from 1 on, got {slice_size!r}')
        try:
            super().set_attention_slice(slice_size)
        except ValueError as error:
            raise QueryError(f"slice_size={slice_size!r} does not fit this U-Net: {error}") from error

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Any = None) -> None:
        """Lets xformers compute attention, or no longer.

        Raises:
            QueryError: if xformers is not installed, or there is no GPU, which it needs.
        """
        if valid and (find_spec("xformers") is None or not torch.cuda.is_available()):
            raise QueryError(
                "attention by xformers needs the package xformers and an NVIDIA GPU; leave the switch out: attention "
                "of PyTorch, which is used without it, takes as little memory"
            )
        super().set_use_memory_efficient_attention_xformers(valid, attention_op)

    def enable_vae_slicing(self) -> None:
        """Lets the autoencoder work on one sound at a time."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Lets the autoencoder work on all sounds at once."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Lets the autoencoder work on one tile of a spectrogram at a time, which changes the result a little."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Lets the autoencoder work on a window of a spectrogram at once."""
        self.vae.disable_tiling()

    def generate_language_model(
        self,
        inputs_embeds: Tensor,
        max_new_tokens: int | None = 8,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Lets GPT-2 go on with hidden states: diffusers' name for `generate_loa`.

        Args:
            inputs_embeds: what it reads, (batch, positions, size).
            max_new_tokens: how many are wanted; None for as many as the model was trained with.
            attention_mask: 0 for padding, (batch, positions).
            position_ids: of what it reads; by default counted without padding, where diffusers counts it.

        Returns:
            (batch, tokens, size).

        Raises:
            QueryError: if that is more than GPT-2 has positions for.
        """
        seen = inputs_embeds.new_ones(inputs_embeds.shape[:2], dtype=torch.long)
        tokens = self.default_loa_tokens() if max_new_tokens is None else max_new_tokens
        if not is_whole(tokens):
            raise QueryError(f"max_new_tokens must be a whole number from 1 on, got {max_new_tokens!r}")
        mask = seen if attention_mask is None else attention_mask
        loa: Tensor = self.generate_loa(inputs_embeds, mask, tokens, positions=position_ids)
        return loa

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Refused: a folder that names code to be run is neither saved nor loaded.

        Raises:
            QueryError: always.
        """
        raise QueryError(
            "a saved pipeline names no code that loads it: AudioLDM2Pipeline.from_pretrained does; leave "
            f"register_for_auto_class({auto_class!r}) out"
        )

    @classmethod
    def from_pipe(
        cls,
        pipeline: DiffusionPipeline,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **components: Any,
    ) -> Self:
        """A pipeline of the components of another one, ours or diffusers'; both share the weights.

        Args:
            pipeline: an AudioLDM 2.
            dtype: precision to change the weights to, which are also the other one's; None leaves them as they are.
            torch_dtype: the same by its older name.
            **components: by name, in place of those of the pipeline.

        Raises:
            QueryError: if the pipeline lacks a component, or something else than a component is passed.
        """
        unknown = sorted(set(components) - set(COMPONENTS))
        if unknown:
            raise QueryError(f"{unknown[0]} is no component; those of an AudioLDM 2 are {', '.join(COMPONENTS)}")
        parts = {name: part for name, part in pipeline.components.items() if name in COMPONENTS} | components
        missing = [name for name in COMPONENTS if name not in (*parts, *OPTIONAL)]
        if missing:
            raise QueryError(f"{type(pipeline).__name__} has no {missing[0]}; pass it by name, or pass an AudioLDM 2")
        copy: Any = cls(**parts)
        origin = pipeline.config.get("_name_or_path")
        if origin is not None:
            copy.register_to_config(_name_or_path=origin)
        copy._shelf = getattr(pipeline, "_shelf", None)
        wanted = dtype or torch_dtype
        if wanted is not None:
            copy.to(dtype=wanted)
        result: Self = copy
        return result

    @classmethod
    def download(cls, pretrained_model_name: str | os.PathLike[str], **hub: Any) -> Path:
        """Fetches a repository from the Hub and checks it, without loading anything.

        Args:
            pretrained_model_name: the repository, or a folder.
            **hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Returns:
            Its folder on this machine.

        Raises:
            CheckpointError: if it cannot be fetched, or is broken or hostile.
        """
        folder = resolve_folder(pretrained_model_name, **hub)
        check_folder(folder)
        return folder


__all__ = ["Switches"]
