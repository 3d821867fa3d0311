# SPDX-License-Identifier: Apache-2.0
"""An AudioLDM 2 as the one model that transformers' text-to-audio pipeline wants: prompts in, waveforms out.

All of the work is done by `hubsep.AudioLDM2Pipeline`, which puts several models together. To transformers this is a
model that has no `generate`: what a call of that pipeline may be told is passed on with `forward_params`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...errors import CheckpointError
from ...hub import HUB_OPTIONS
from .configuration_audioldm2 import AudioLDM2Config


class AudioLDM2ForTextToWaveform(PreTrainedModel):
    """An `AudioLDM2Pipeline` where transformers expects a model; made by `from_pretrained`, or `of` a pipeline.

    Attributes:
        pipe: the pipeline.
    """

    config_class = AudioLDM2Config
    main_input_name = "prompt"

    def __init__(self, config: AudioLDM2Config, pipe: Any = None):
        super().__init__(config)
        if pipe is None:
            raise CheckpointError(
                "an AudioLDM 2 is not made of a configuration: load a folder with from_pretrained, or pass a pipeline"
            )
        self.post_init()  # before there are any weights, which it would initialise anew
        self.pipe = pipe
        self.parts = nn.ModuleDict({name: part for name, part in pipe.components.items() if _is_module(part)})
        if getattr(pipe, "hf_device_map", None):
            self.hf_device_map = pipe.hf_device_map
        self.eval()

    @classmethod
    def of(cls, pipe: Any) -> AudioLDM2ForTextToWaveform:
        """The model that stands for a pipeline; both share their components."""
        return cls(AudioLDM2Config(sampling_rate=pipe.sampling_rate), pipe)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        trust_remote_code: bool | None = None,
        **kwargs: Any,
    ) -> AudioLDM2ForTextToWaveform:
        """Loads a folder or repository as `AudioLDM2Pipeline.from_pretrained` does.

        Args:
            pretrained_model_name_or_path: the folder or repository.
            *args: what transformers passes on and is not needed here.
            dtype: precision, also by name; "auto" and None are float32.
            device_map: a device, or "balanced".
            trust_remote_code: refused.
            **kwargs: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`, `variant` and
                `attention_heads`; the rest of what transformers passes is not needed.

        Raises:
            CheckpointError: naming the file, component or tensor and the reason.
        """
        from ...pipelines.audioldm2 import AudioLDM2Pipeline

        if trust_remote_code:
            raise CheckpointError("trust_remote_code=True is refused: nothing in a folder is run.")
        known = (*HUB_OPTIONS, "variant", "attention_heads")
        options = {name: kwargs[name] for name in known if kwargs.get(name) is not None}
        wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        pipe = AudioLDM2Pipeline.from_pretrained(
            pretrained_model_name_or_path, dtype=wanted, device_map=device_map, **options
        )
        pipe.set_progress_bar_config(disable=True)  # pipelines of transformers show none
        return cls.of(pipe)

    def forward(self, prompt: Sequence[Any], **options: Any) -> tuple[Tensor]:
        """Waveforms (prompts, samples), of several candidates the best.

        Args:
            prompt: texts, also in lists of their own, as batches of the pipeline are.
            **options: what a call of `AudioLDM2Pipeline` takes.

        Raises:
            QueryError: if prompts or options are wrong.
            AudioError: if the length is.
        """
        texts = [text for item in prompt for text in ([item] if isinstance(item, str) else item)]
        made = self.pipe(texts, output_type="pt", return_dict=False, **options)[0]
        return (made[:: options.get("num_waveforms_per_prompt", 1)],)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Saves the pipeline; takes what its `save_pretrained` takes."""
        self.pipe.save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Pushes the pipeline; takes what its `push_to_hub` takes."""
        address: str = self.pipe.push_to_hub(repo_id, **options)
        return address


def _is_module(part: Any) -> bool:
    return isinstance(part, nn.Module)


__all__ = ["AudioLDM2ForTextToWaveform"]
