# SPDX-License-Identifier: Apache-2.0
"""What users call: `pipeline("audio-separation")`, `pipeline("text-to-audio")` and the classes behind them.

`transformers.pipeline` builds the same objects once hubsep is imported. The function here adds what transformers does
not do for a third-party model: the folder is checked before anything in it is read, and what is wrong with it arrives
as one `CheckpointError` instead of a list of tracebacks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import transformers

from hubsep.auto import AutoModelForAudioSeparation, load_processor
from hubsep.errors import CheckpointError, HubsepError
from hubsep.hub.arguments import check_precision
from hubsep.hub.bounds import shown
from hubsep.hub.commercial import check_folder_licence, is_wanted
from hubsep.hub.models import HUB_OPTIONS, check_task, resolve_folder
from hubsep.registry import SYSTEMS, TASK, TEXT_TO_AUDIO
from hubsep.shipped import DEFAULT_MODEL, SHIPPED

from .arguments import check_loading, check_model, check_processor, check_task_name
from .separation.options import CallOptions
from .separation.pipeline import AudioSeparationPipeline
from .text_to_audio import build as build_generator
from .text_to_audio import is_audioldm2


# what else transformers.pipeline builds; a type checker takes another name for a mistake
OtherTask = Literal[
    "any-to-any", "audio-classification", "automatic-speech-recognition", "depth-estimation",
    "document-question-answering", "feature-extraction", "fill-mask", "image-classification",
    "image-feature-extraction", "image-segmentation", "image-text-to-text", "keypoint-matching", "mask-generation",
    "ner", "object-detection", "sentiment-analysis", "table-question-answering", "text-classification",
    "text-generation", "text-to-speech", "token-classification", "video-classification",
    "zero-shot-audio-classification", "zero-shot-classification", "zero-shot-image-classification",
    "zero-shot-object-detection",
]  # fmt: skip

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from .audioldm2.arguments import CallOptions as SoundOptions
    from .audioldm2.pipeline import AudioLDM2Pipeline
    from .text_to_audio import TextToAudioPipeline

    class LoadingOptions(TypedDict, total=False):
        """What every pipeline may be built with."""

        device: int | str | torch.device | None
        revision: str | None
        token: str | bool | None
        cache_dir: str | os.PathLike[str] | None
        local_files_only: bool
        force_download: bool
        commercial: bool | None
        trust_remote_code: bool | None

    class SeparationSettings(CallOptions, LoadingOptions, total=False):
        """What a separation pipeline may be built with."""

        adapter_revision: str | None

    class SoundSettings(SoundOptions, LoadingOptions, total=False):
        """What a pipeline that makes sounds may be built with."""

        tokenizer: object
        vocoder: object
        forward_params: dict[str, object] | None
        generate_kwargs: dict[str, object] | None


@overload
def pipeline(
    task: Literal["audio-separation"] = ...,
    model: str | Path | transformers.PreTrainedModel | None = ...,
    *,
    adapter: str | Path | None = ...,
    processor: Any = ...,
    dtype: str | torch.dtype | None = ...,
    device_map: str | dict[str, Any] | None = ...,
    model_kwargs: dict[str, Any] | None = ...,
    **kwargs: Unpack[SeparationSettings],
) -> AudioSeparationPipeline: ...


@overload
def pipeline(
    task: Literal["text-to-audio"],
    model: str | Path | transformers.PreTrainedModel | AudioLDM2Pipeline | None = ...,
    *,
    processor: Any = ...,
    dtype: str | torch.dtype | None = ...,
    device_map: str | dict[str, Any] | None = ...,
    model_kwargs: dict[str, Any] | None = ...,
    **kwargs: Unpack[SoundSettings],
) -> TextToAudioPipeline: ...


@overload
def pipeline(
    task: OtherTask, model: str | Path | transformers.PreTrainedModel | None = ..., **kwargs: Any
) -> transformers.Pipeline: ...


def pipeline(
    task: str = TASK,
    model: str | Path | transformers.PreTrainedModel | AudioLDM2Pipeline | None = None,
    *,
    adapter: str | Path | None = None,
    processor: Any = None,
    dtype: Any = "auto",
    device_map: Any = None,
    model_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Builds a pipeline; for audio separation and AudioLDM 2, from a folder that passed every check.

    Args:
        task: "audio-separation", "text-to-audio", or any task of transformers. What is neither for separation nor an
            AudioLDM 2, transformers is asked to build.
        model: a folder, a name on the Hub, the name of a shipped model, a loaded model (or an `AudioLDM2Pipeline`),
            or None for the default of the shipped ones.
        adapter: a folder, or a name on the Hub, of what a fine-tune changed (`hubsep train MODEL --lora`). It is
            merged into the separation model, into a loaded one as well. `adapter_revision` goes with it.
        processor: goes with a loaded text-queried model; with a folder or name it is found there.
        dtype: precision of the weights; "auto" keeps the one they were saved in. Waveforms are float32 either way.
        device_map: where accelerate puts the parts of the model; not together with `device`.
        model_kwargs: further arguments of the model's `from_pretrained`.
        **kwargs: `device`; `revision`, `token`, `cache_dir` and `local_files_only` for models on the Hub;
            `commercial`, which refuses weights whose licence does not allow commercial use, before they are fetched;
            and whatever the pipeline takes in a call, to be the default of all calls.

    Returns:
        An `AudioSeparationPipeline`; for an AudioLDM 2, a `TextToAudioPipeline`, whose calls give what those of
        transformers' do; or the pipeline transformers has for `task`.

    Raises:
        CheckpointError: if the folder is broken, incomplete or hostile.
    """
    if kwargs.pop("trust_remote_code", None):
        raise CheckpointError("trust_remote_code=True is refused: nothing in a folder is run.")
    check_task_name(task)
    check_model(model)
    if isinstance(model, os.PathLike):
        model = Path(model)
    dtype = _older_name(dtype, kwargs)
    hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    loading = {"dtype": dtype, "device_map": device_map, "model_kwargs": model_kwargs}
    is_sound = task == TEXT_TO_AUDIO and is_audioldm2(model, hub)
    if is_sound or task == TASK:
        check_loading(task, model, adapter, processor, loading, kwargs)
    if is_sound:
        return build_generator(model, **{**loading, "model_kwargs": model_kwargs or {}}, **kwargs)
    check_purpose(model, task)
    commercial = kwargs.pop("commercial", None)
    if task != TASK:
        check_loaded(model, commercial)
        return _build(task, model=model, processor=processor, **loading, **_if_any(adapter=adapter), **kwargs)
    hub |= {"commercial": commercial}
    for option in hub:
        kwargs.pop(option, None)
    if adapter is not None:
        adapter = resolve_folder(adapter, **{**hub, "revision": kwargs.pop("adapter_revision", None)})
    return _build_separator(model, processor, hub, loading, **_if_any(adapter=adapter), **kwargs)


def _build_separator(model: Any, processor: Any, hub: dict[str, Any], loading: dict[str, Any], **kwargs: Any) -> Any:
    """A separation pipeline, of arguments that were checked."""
    if model is None or isinstance(model, str | Path):
        name = DEFAULT_MODEL if model is None else model
        folder = resolve_folder(SHIPPED.get(str(name), name), **hub)
        options = loading.pop("model_kwargs") or {}
        model = AutoModelForAudioSeparation.from_pretrained(folder, **loading, **options)
        if processor is None and (folder / "processor_config.json").exists():
            processor = load_processor(model, folder)
    else:
        check_loaded(model, hub["commercial"])
    system = SYSTEMS.get(getattr(model.config, "model_type", ""))
    check_processor(processor, model, is_needed=system is not None and system.processor is not None)
    if isinstance(processor, str | Path):
        processor = load_processor(model, Path(processor))
    return _build(TASK, model=model, processor=processor, **kwargs)


def _older_name(dtype: Any, kwargs: dict[str, Any]) -> Any:
    """The precision, also by the name that it had in older releases of transformers."""
    older = check_precision(kwargs.pop("torch_dtype", None), "torch_dtype")
    if older is None:
        return dtype
    if dtype is not None and dtype != "auto" and check_precision(dtype) != older:
        raise CheckpointError(f"dtype is {shown(dtype)} and torch_dtype {shown(older)}; leave torch_dtype out")
    return older


def _if_any(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def check_loaded(model: Any, commercial: bool | None) -> None:
    """Refuses a loaded model, or one of another library, unless its folder says that it may be used commercially.

    Args:
        model: a model, or what transformers takes for one.
        commercial: whether only such weights are wanted.

    Raises:
        CheckpointError: if that is wanted, and not so.
    """
    if not commercial or not is_wanted(commercial):
        return
    origin = str(getattr(getattr(model, "config", None), "name_or_path", "") or "")
    if not os.path.isdir(origin):
        raise CheckpointError(
            "commercial=True needs the licence of the weights, and this model was not loaded from a folder with a "
            "card: pass the name of a model of hubsep instead"
        )
    check_folder_licence(Path(origin), origin)


def check_purpose(model: Any, task: str) -> None:
    """Refuses a model of hubsep that is here already and for another task, before transformers tries to build it.

    Raises:
        CheckpointError: if it makes sounds where one that separates is wanted, or the other way round.
    """
    if isinstance(model, str | Path):
        folder = SHIPPED.get(str(model), Path(model))
        if os.path.isdir(folder):  # a name may be too long for a path
            check_task(folder, model, task)
        return
    system = SYSTEMS.get(getattr(getattr(model, "config", None), "model_type", ""))
    if task == TASK and model is not None and is_audioldm2(model, {}):
        kind = type(model).__name__
        raise CheckpointError(
            f'{kind} makes sounds and separates none: call it as it is, or use it in pipeline("{TEXT_TO_AUDIO}")'
        )
    if task == TEXT_TO_AUDIO and system is not None and system.task == TASK:
        raise CheckpointError(
            f'{type(model).__name__} separates recordings and makes none: use it in pipeline("{TASK}")'
        )


def _build(task: str, **options: Any) -> Any:
    """transformers' function, which would ask whether to run code in a folder when it was not told."""
    build: Any = transformers.pipeline  # its overloads know the tasks of transformers only
    try:
        return build(task, trust_remote_code=False, **options)
    except ValueError as error:
        if isinstance(error, HubsepError) or "trust_remote_code" not in str(error):
            raise
        raise CheckpointError(
            f"{shown(str(options['model']))} comes with code, and nothing in a folder is run."
        ) from error


__all__ = ["AudioSeparationPipeline", "pipeline"]
