# SPDX-License-Identifier: Apache-2.0
"""`pipeline("text-to-audio")` with an AudioLDM 2: transformers' pipeline and output around `AudioLDM2Pipeline`.

What comes out is what transformers gives: `{"audio": array, "sampling_rate": int}`, a list of them for a list of
prompts. Folders that hubsep saves open in `transformers.pipeline` as well; there, what a call is told goes into
`forward_params`, because to transformers this is a model without `generate`. Here it may be given as it is, and
`generate_kwargs` means the same. Folders of diffusers' layout that hubsep did not save open only here.

An AudioLDM 2 as the one model that transformers' text-to-audio pipeline wants: prompts in, waveforms out.

All of the work is done by `hubsep.AudioLDM2Pipeline`, which puts several models together. To transformers this is a
model that has no `generate`: what a call of that pipeline may be told is passed on with `forward_params`.

Also here: its tokenizer. That pipeline wants one where AudioLDM 2 has two, so texts go on as they are.

CLAP and T5 each read a prompt with a tokenizer of their own, inside the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import BatchFeature, PreTrainedModel
from transformers.pipelines.text_to_audio import TextToAudioPipeline as Base

from hubsep.errors import CheckpointError, QueryError
from hubsep.hub.bounds import is_whole, shown
from hubsep.hub.fetch import fetch
from hubsep.hub.models import HUB_OPTIONS
from hubsep.hub.published import find_published
from hubsep.hub.resolve import check_model_name
from hubsep.hub.wire import wire_errors
from hubsep.models.audioldm2.configuration_audioldm2 import AudioLDM2Config
from hubsep.registry import TEXT_TO_AUDIO
from hubsep.shipped import DEFAULT_GENERATOR, SHIPPED

from .audioldm2.arguments import as_texts
from .results import GeneratedSound


if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Unpack

    from .audioldm2.arguments import CallOptions
    from .audioldm2.pipeline import AudioLDM2Pipeline

    Texts: TypeAlias = list[str] | tuple[str, ...]
    Endless: TypeAlias = Iterator[str] | Dataset[Any]

    class SoundOptions(CallOptions, total=False):
        """What a call may be told, also by transformers' two names for all of it."""

        forward_params: dict[str, object] | None
        generate_kwargs: dict[str, object] | None
        batch_size: int | None
        num_workers: int | None


class AudioLDM2TextReader:
    """Hands texts to `AudioLDM2ForTextToWaveform`, which reads them itself."""

    # of batches: texts are not padded here, but transformers asks
    pad_token_id = 0
    padding_side = "right"

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> AudioLDM2TextReader:
        """There is nothing to load."""
        return cls()

    def save_pretrained(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """There is nothing to save."""
        return ()

    def __call__(self, text: str | Sequence[str], **kwargs: Any) -> BatchFeature:
        """The texts as `prompt`.

        Raises:
            QueryError: if they are none.
        """
        return BatchFeature({"prompt": as_texts(text)})


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
        from .audioldm2.pipeline import AudioLDM2Pipeline

        if trust_remote_code:
            raise CheckpointError("trust_remote_code=True is refused: nothing in a folder is run.")
        names = (*HUB_OPTIONS, "variant", "attention_heads")
        options: dict[str, Any] = {"dtype": dtype, "device_map": device_map}
        options |= {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        pipe = AudioLDM2Pipeline.from_pretrained(pretrained_model_name_or_path, **options)
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
        check_options(options)
        texts = [text for item in prompt for text in ([item] if isinstance(item, str) else item)]
        waveforms = self.pipe(texts, output_type="pt", return_dict=False, **options)[0]
        return (waveforms[:: options.get("num_waveforms_per_prompt", 1)],)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Saves the pipeline; takes what its `save_pretrained` takes."""
        self.pipe.save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Pushes the pipeline; takes what its `push_to_hub` takes."""
        address: str = self.pipe.push_to_hub(repo_id, **options)
        return address


def _is_module(part: Any) -> bool:
    return isinstance(part, nn.Module)


INDEX = "model_index.json"
# options of `AudioLDM2Pipeline` that a pipeline of transformers has an answer to already, and which
ANSWERED = {
    "prompt": "the texts are the first argument",
    "output_type": "what comes out are arrays; .pipe(text, output_type=...) of this pipeline gives tensors or latents",
    "return_dict": "what comes out are dicts; .pipe(text, return_dict=False) of this pipeline gives tuples",
}


def check_options(options: Mapping[str, object]) -> None:
    """Refuses options that are settled here, and tensors without values, which transformers would move to a device.

    Raises:
        QueryError: naming one, and what to do instead.
    """
    for name, value in options.items():
        if name in ANSWERED:
            raise QueryError(f"leave out {name}, got {shown(value)}: {ANSWERED[name]}")
        if isinstance(value, Tensor) and value.is_meta:
            raise QueryError(f"{name} is a tensor on the meta device, which has no values")


def _inputs(texts: Any) -> Any:
    """What transformers' pipeline is to be given: a list of several texts; what comes one by one is checked then.

    Raises:
        QueryError: if these are no texts.
    """
    if isinstance(texts, Dataset):
        return texts
    if isinstance(texts, Iterator):
        return (text for text in texts)  # of iterators it knows generators alone
    checked = as_texts(texts)
    return texts if isinstance(texts, str) else checked


class TextToAudioPipeline(Base):
    """transformers' pipeline, which may be told in plain arguments how an AudioLDM 2 is to sample.

    Attributes:
        pipe: the `AudioLDM2Pipeline`, for all that it can do with recordings.
    """

    @overload
    def __call__(self, text_inputs: str, **options: Unpack[SoundOptions]) -> GeneratedSound: ...

    @overload
    def __call__(self, text_inputs: Texts, **options: Unpack[SoundOptions]) -> list[GeneratedSound]: ...

    @overload
    def __call__(self, text_inputs: Endless, **options: Unpack[SoundOptions]) -> Iterator[GeneratedSound]: ...

    def __call__(self, text_inputs: Any, **options: Any) -> Any:
        """Makes sounds of texts.

        Args:
            text_inputs: what is to be heard: a text, several, or a generator or dataset of texts.
            **options: those of `AudioLDM2Pipeline`, but for what is about its output; `batch_size` and `num_workers`
                of transformers' pipelines.

        Returns:
            A `GeneratedSound`; a list of them for several texts; an iterator for a generator or dataset.

        Raises:
            TypeError: if there is no such option.
            QueryError: if texts or options are wrong.
            AudioError: if the length is.
        """
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            value = options.get(name)
            value = getattr(self, f"_{name}") if value is None else value
            none = least == 0 and type(value) is int and value == 0
            if not (value is None or none or is_whole(value)):
                raise QueryError(f"{name} must be a whole number from {least} on, got {shown(value)}")
        return super().__call__(_inputs(text_inputs), **options)

    @property
    def pipe(self) -> AudioLDM2Pipeline:
        pipe: AudioLDM2Pipeline = self.model.pipe
        return pipe

    def _sanitize_parameters(
        self, forward_params: Any = None, generate_kwargs: Any = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        always = self.__dict__.get("_forward_params", {}).get("forward_params", {})
        parameters = {**always}
        for name, several in (("forward_params", forward_params), ("generate_kwargs", generate_kwargs)):
            if several is None:
                continue
            if not isinstance(several, Mapping) or not all(isinstance(option, str) for option in several):
                raise QueryError(f"{name} must be a dict of options by their names, got {shown(several)}")
            parameters.update(several)
        parameters.update(options)
        check_options(parameters)
        return {}, {"forward_params": parameters, "generate_kwargs": {}}, {}

    def preprocess(self, text: Any, **options: Any) -> Any:
        """Reads one text, or several that are made together."""
        return super().preprocess(as_texts(text), **options)

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
    check_model_name(name)
    if Path(name).exists() or name in SHIPPED:
        return (SHIPPED.get(name, Path(name)) / INDEX).is_file()
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        return False
    row = find_published(name)
    if row is not None and not row.opens:
        return row.system == "audioldm2"
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with wire_errors(f"there is no folder {name!r}, and it could not be fetched from the Hub", hub.get("token")):
        try:
            fetch(hf_hub_download, name, INDEX, **{key: hub[key] for key in hub if key != "commercial"})
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


__all__ = ["AudioLDM2ForTextToWaveform", "AudioLDM2TextReader", "TextToAudioPipeline", "build", "is_audioldm2"]
