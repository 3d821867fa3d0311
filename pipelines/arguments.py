# SPDX-License-Identifier: Apache-2.0
"""What `pipeline` is called with, looked at before anything is read: tasks, models, and what goes with a loaded one.

Decisions: what a call says and nothing would use is refused, because whoever wrote it meant something by it. Tasks of
transformers are left to transformers, but for their names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from hubsep.errors import CheckpointError
from hubsep.hub.arguments import (
    check_device,
    check_device_map,
    check_options,
    check_place,
    check_precision,
    check_revision,
)
from hubsep.hub.bounds import shown
from hubsep.registry import TASK, TEXT_TO_AUDIO
from hubsep.shipped import SHIPPED
from hubsep.texts import near


TASKS = (TASK, TEXT_TO_AUDIO)
# what others call these tasks
SYNONYMS = {
    "source-separation": TASK, "audio-source-separation": TASK, "speech-separation": TASK, "music-separation": TASK,
    "music-source-separation": TASK, "separation": TASK, "separate": TASK, "text-to-sound": TEXT_TO_AUDIO,
    "text-to-music": TEXT_TO_AUDIO, "generate": TEXT_TO_AUDIO, "audio-generation": TEXT_TO_AUDIO,
}  # fmt: skip
# arguments of transformers' function that a separation pipeline has no use for, and what does what they are for
UNUSED = {
    "tokenizer": "processor= holds the tokenizer of a text-queried model",
    "feature_extractor": "processor= holds the feature extractor of a text-queried model",
    "image_processor": "there are no pictures",
    "video_processor": "there are no pictures",
    "config": "config.json of the model is read",
    "pipeline_class": "it is hubsep.AudioSeparationPipeline",
    "use_fast": "processor= holds the tokenizer of a text-queried model",
}


def check_task_name(task: Any) -> None:
    """Refuses what is no task of hubsep or of transformers.

    Raises:
        CheckpointError: naming the task that was meant, if one is near.
    """
    names = transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks()
    if isinstance(task, str) and (task in names or task.startswith("translation_")):
        return
    way_out = f'the tasks of hubsep are "{TASK}" and "{TEXT_TO_AUDIO}", all others are those of transformers'
    if not isinstance(task, str):
        raise CheckpointError(f"task must be a text, got {shown(task)} ({type(task).__name__}); {way_out}")
    if task in SHIPPED or os.path.isdir(task):
        raise CheckpointError(f"task is {shown(task)}, which is a model: pass it as model={shown(task)}; {way_out}")
    meant = near(task, [*TASKS, *names], SYNONYMS)
    hint = f" Did you mean {meant}?" if meant else ""
    raise CheckpointError(f"task is {shown(task)}, and there is none of that name; {way_out}.{hint}")


def check_model(model: Any) -> None:
    """Refuses what is neither the name of a model nor a loaded one.

    Raises:
        CheckpointError: with what it is.
    """
    if model is not None and not hasattr(model, "config"):
        check_place("model", model)


def check_loading(
    task: str, model: Any, adapter: Any, processor: Any, loading: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> None:
    """Refuses what a pipeline cannot be built with, or would be built without.

    Args:
        task: of the pipeline; one of hubsep.
        model: a name, a folder, a loaded model or None.
        adapter: a name or a folder, or None.
        processor: likewise, or a loaded processor.
        loading: `dtype`, `device_map` and `model_kwargs`.
        kwargs: the other arguments.

    Raises:
        CheckpointError: naming the argument, its value and the way out.
    """
    name = str(model) if isinstance(model, str | Path) else ""
    if model is None or name in SHIPPED:
        check_revision(kwargs.get("revision"), name or "the model that is shipped with hubsep")
    check_precision(loading["dtype"])
    check_device_map(loading["device_map"])
    options = check_options("model_kwargs", loading["model_kwargs"])
    check_device(kwargs.get("device"))
    if kwargs.get("device") is not None and loading["device_map"] is not None:
        raise CheckpointError("device= and device_map= both say where the model goes; leave one of them out")
    _check_unused(task, kwargs)
    if task != TASK and (adapter is not None or processor is not None):
        name, value = ("adapter", adapter) if adapter is not None else ("processor", processor)
        raise CheckpointError(
            f'{name}={shown(value)} goes with "{TASK}"; an AudioLDM 2 takes adapters by the load_lora_weights of '
            "hubsep.AudioLDM2Pipeline, and has its own tokenizers"
        )
    if hasattr(model, "config"):
        _check_loaded_model({**loading, "model_kwargs": options or None, "revision": kwargs.get("revision")})
    _check_adapter(adapter, kwargs.get("adapter_revision"))


def _check_unused(task: str, kwargs: Mapping[str, Any]) -> None:
    """Refuses arguments of transformers' function that these pipelines have no use for."""
    for name, reason in UNUSED.items():
        value = kwargs.get(name)
        is_reader = task != TASK and name == "tokenizer" and not isinstance(value, str | Path | int)
        if value is not None and not is_reader:
            reason = reason if task == TASK else "an AudioLDM 2 has all its parts in its folder"
            raise CheckpointError(f"{name}={shown(value)} is used by nothing here: {reason}; leave it out")


def _check_loaded_model(loading: Mapping[str, Any]) -> None:
    """Refuses what is about reading a model that was read already."""
    for name, value in loading.items():
        if value is not None and not (name == "dtype" and isinstance(value, str) and value == "auto"):
            raise CheckpointError(
                f"{name}={shown(value)} is for a model that is loaded here, and this one is loaded already; pass "
                f"{name} to its from_pretrained, or the name of the model in its place"
            )


def _check_adapter(adapter: Any, revision: Any) -> None:
    if adapter is None and revision is not None:
        raise CheckpointError(f"adapter_revision={shown(revision)} needs adapter=, the name of a repository")
    if adapter is not None:
        name = check_place("adapter", adapter)
        if os.path.isdir(name):
            check_revision(revision, name, "adapter_revision")


def check_processor(processor: Any, model: Any, *, is_needed: bool) -> None:
    """Refuses a processor that is none, or that the model does not use.

    Args:
        processor: a loaded one, a folder or a name; None if there is none.
        model: that it goes with.
        is_needed: whether models of this kind have one.

    Raises:
        CheckpointError: with what it is.
    """
    if processor is None:
        return
    if not is_needed:
        raise CheckpointError(
            f"processor={shown(processor)} is used by nothing: {type(model).__name__} takes recordings alone and has "
            "no processor; leave it out"
        )
    if not isinstance(processor, str | Path | transformers.ProcessorMixin):
        raise CheckpointError(
            f"processor must be a folder, a name, or a loaded processor, got {shown(processor)} "
            f"({type(processor).__name__})"
        )


__all__ = ["check_loading", "check_model", "check_processor", "check_task_name"]
