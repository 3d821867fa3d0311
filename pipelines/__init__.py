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
from hubsep.hub import check_folder, resolve_folder
from hubsep.pipelines.separation import AudioSeparationPipeline
from hubsep.registry import DEFAULT_MODEL, SHIPPED, TASK


def pipeline(
    task: str = TASK,
    model: str | Path | transformers.PreTrainedModel | None = None,
    *,
    processor: Any = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    dtype: Any = "auto",
    device_map: Any = None,
    **kwargs: Any,
) -> Any:
    """Builds a pipeline; for audio separation, from a folder that passed every check.

    Args:
        task: "audio-separation", or any task of transformers, which is then asked to build it.
        model: a folder, a name on the Hub, a loaded model, or None for the model shipped with the package.
        processor: goes with a loaded text-queried model; with a folder or name it is found there.
        revision: branch, tag or commit on the Hub.
        token: for private repositories on the Hub.
        cache_dir: where downloads are kept, if not in the Hub's own cache.
        local_files_only: use only what was downloaded before.
        dtype: precision of the weights; "auto" keeps the one they were saved in. Waveforms are float32 either way.
        device_map: where accelerate puts the parts of the model; not together with `device`.
        **kwargs: `device` and whatever the pipeline takes in a call, to be the default of all calls.

    Returns:
        An `AudioSeparationPipeline`, or the pipeline transformers has for `task`.

    Raises:
        CheckpointError: if the folder is broken, incomplete or hostile.
    """
    if task != TASK or not (model is None or isinstance(model, str | Path)):
        loading = {"processor": processor, "revision": revision, "token": token, "device_map": device_map}
        kwargs = {**{name: value for name, value in loading.items() if value is not None}, **kwargs}
        return transformers.pipeline(task, model=model, dtype=dtype, **kwargs)  # type: ignore[call-overload]
    origin = SHIPPED[DEFAULT_MODEL] if model is None else model
    folder = resolve_folder(
        origin, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    check_folder(folder)
    loaded = AutoModelForAudioSeparation.from_pretrained(folder, dtype=dtype, device_map=device_map)
    if processor is None and (folder / "processor_config.json").exists():
        processor = transformers.AutoProcessor.from_pretrained(folder)
    return transformers.pipeline(task, model=loaded, processor=processor, **kwargs)  # type: ignore[call-overload]


__all__ = ["AudioSeparationPipeline", "pipeline"]
