# SPDX-License-Identifier: Apache-2.0
"""`pipeline("text-to-audio")` with an AudioLDM 2: transformers' pipeline and output around `AudioLDM2Pipeline`.

What comes out is what transformers gives: `{"audio": array, "sampling_rate": int}`, a list of them for a list of
prompts. Folders that hubsep saves open in `transformers.pipeline` as well; there, what a call is told goes into
`forward_params`, because to transformers this is a model without `generate`. Here it may be given as it is, and
`generate_kwargs` means the same. Folders of diffusers' layout that hubsep did not save open only here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import transformers
from transformers.pipelines.text_to_audio import TextToAudioPipeline as Base

from hubsep.errors import CheckpointError
from hubsep.hub import HUB_OPTIONS
from hubsep.hub_fetch import fetch
from hubsep.hub_wire import wire_errors
from hubsep.models.audioldm2.modeling_audioldm2 import AudioLDM2ForTextToWaveform
from hubsep.models.audioldm2.tokenization_audioldm2 import AudioLDM2TextReader
from hubsep.pipelines.results import GeneratedSound
from hubsep.registry import DEFAULT_GENERATOR, SHIPPED, TEXT_TO_AUDIO


if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Unpack

    from hubsep.pipelines.audioldm2 import AudioLDM2Pipeline
    from hubsep.pipelines.audioldm2_arguments import CallOptions

    Texts: TypeAlias = list[str] | tuple[str, ...]

    class SoundOptions(CallOptions, total=False):
        """What a call may be told, also by transformers' two names for all of it."""

        forward_params: dict[str, Any] | None
        generate_kwargs: dict[str, Any] | None


INDEX = "model_index.json"


class TextToAudioPipeline(Base):
    """transformers' pipeline, which may be told in plain arguments how an AudioLDM 2 is to sample.

    Attributes:
        pipe: the `AudioLDM2Pipeline`, for all that it can do with recordings.
    """

    if TYPE_CHECKING:

        @overload
        def __call__(self, text_inputs: str, **options: Unpack[SoundOptions]) -> GeneratedSound: ...

        @overload
        def __call__(self, text_inputs: Texts, **options: Unpack[SoundOptions]) -> list[GeneratedSound]: ...

        def __call__(self, text_inputs: Any, **options: Any) -> Any: ...

    @property
    def pipe(self) -> AudioLDM2Pipeline:
        pipe: AudioLDM2Pipeline = self.model.pipe
        return pipe

    def _sanitize_parameters(
        self, forward_params: Any = None, generate_kwargs: Any = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        always = self.__dict__.get("_forward_params", {}).get("forward_params", {})
        told = {**always, **(forward_params or {}), **(generate_kwargs or {}), **options}
        return {}, {"forward_params": told, "generate_kwargs": {}}, {}

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Saves all components; takes what `AudioLDM2Pipeline.save_pretrained` takes."""
        self.pipe.save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Pushes all components and the card in one commit."""
        address: str = self.pipe.push_to_hub(repo_id, **options)
        return address


def is_audioldm2(model: Any, hub: dict[str, Any]) -> bool:
    """Whether a model is an AudioLDM 2: a pipeline, a folder, a shipped name, or a repository of diffusers' layout.

    Of a repository nothing but the one file that says so is fetched.

    Raises:
        CheckpointError: if there is no such repository.
    """
    if model is None or isinstance(model, AudioLDM2ForTextToWaveform) or hasattr(model, "guidance_of"):
        return True
    if not isinstance(model, str | Path):
        return False
    name = os.fspath(model)
    if Path(name).exists() or name in SHIPPED:
        return (SHIPPED.get(name, Path(name)) / INDEX).is_file()
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        return False
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with wire_errors(f"there is no folder {name!r}, and it could not be fetched from the Hub", hub.get("token")):
        try:
            fetch(hf_hub_download, name, INDEX, **hub)
        except EntryNotFoundError:
            return False
    return True


def build(model: Any, *, dtype: Any, device_map: Any, model_kwargs: dict[str, Any], **kwargs: Any) -> Any:
    """The pipeline of an AudioLDM 2.

    Args:
        model: as `is_audioldm2` takes it; None for the shipped one.
        dtype: as in `AudioLDM2ForTextToWaveform.from_pretrained`.
        device_map: likewise.
        model_kwargs: further arguments of that.
        **kwargs: those of `hubsep.pipeline`.

    Raises:
        CheckpointError: if the folder is broken, incomplete or hostile.
    """
    hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
    if model is None and DEFAULT_GENERATOR not in SHIPPED:
        raise CheckpointError("no model that makes sounds is shipped yet: pass model=, for instance cvssp/audioldm2")
    model = DEFAULT_GENERATOR if model is None else model
    if isinstance(model, str | Path):
        options = {"dtype": dtype, "device_map": device_map, **hub, **model_kwargs}
        model = AudioLDM2ForTextToWaveform.from_pretrained(model, **options)
    elif not isinstance(model, AudioLDM2ForTextToWaveform):
        kwargs.setdefault("device", model.device)  # where its owner put it, also part by part
        model = AudioLDM2ForTextToWaveform.of(model)
    kwargs.setdefault("tokenizer", AudioLDM2TextReader())
    make: Any = transformers.pipeline
    return make(TEXT_TO_AUDIO, model=model, pipeline_class=TextToAudioPipeline, **kwargs)


__all__ = ["TextToAudioPipeline", "build", "is_audioldm2"]
