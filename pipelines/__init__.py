# SPDX-License-Identifier: Apache-2.0
"""What users call: `pipeline("audio-separation")` and the pipeline classes behind it.

`transformers.pipeline` builds the same objects once hubsep is imported. The function here adds what transformers does
not do for a third-party model: the folder is checked before anything in it is read, and what is wrong with it arrives
as one `CheckpointError` instead of a list of tracebacks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from hubsep.auto import AutoModelForAudioSeparation
from hubsep.hub import resolve_folder
from hubsep.pipelines.separation import AudioSeparationPipeline
from hubsep.registry import DEFAULT_MODEL, SHIPPED, TASK


HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only")


def pipeline(
    task: str = TASK,
    model: str | Path | transformers.PreTrainedModel | None = None,
    *,
    processor: Any = None,
    dtype: Any = "auto",
    device_map: Any = None,
    model_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Builds a pipeline; for audio separation, from a folder that passed every check.

    Args:
        task: "audio-separation", or any task of transformers, which is then asked to build it.
        model: a folder, a name on the Hub, the name of a shipped model, a loaded model, or None for the default of
            the shipped ones.
        processor: goes with a loaded text-queried model; with a folder or name it is found there.
        dtype: precision of the weights; "auto" keeps the one they were saved in. Waveforms are float32 either way.
        device_map: where accelerate puts the parts of the model; not together with `device`.
        model_kwargs: further arguments of the model's `from_pretrained`.
        **kwargs: `device`; `revision`, `token`, `cache_dir` and `local_files_only` for models on the Hub; and whatever
            the pipeline takes in a call, to be the default of all calls.

    Returns:
        An `AudioSeparationPipeline`, or the pipeline transformers has for `task`.

    Raises:
        CheckpointError: if the folder is broken, incomplete or hostile.
    """
    if task == TASK and (model is None or isinstance(model, str | Path)):
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        name = DEFAULT_MODEL if model is None else model
        folder = resolve_folder(SHIPPED.get(str(name), name), **hub)
        model = AutoModelForAudioSeparation.from_pretrained(
            folder, dtype=dtype, device_map=device_map, **(model_kwargs or {})
        )
        if processor is None and (folder / "processor_config.json").exists():
            processor = transformers.AutoProcessor.from_pretrained(folder)
    else:
        kwargs.update(dtype=dtype, device_map=device_map, model_kwargs=model_kwargs)
    build: Any = transformers.pipeline  # its overloads know the tasks of transformers only
    return build(task, model=model, processor=processor, **kwargs)


__all__ = ["AudioSeparationPipeline", "pipeline"]
