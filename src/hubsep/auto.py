# SPDX-License-Identifier: Apache-2.0
"""`AutoModelForAudioSeparation`: from a folder or a configuration to the right separation model."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping

from .errors import CheckpointError
from .hub.bounds import shown
from .hub.json_files import read_json
from .hub.models import HUB_OPTIONS, check_task, checked_folder
from .registry import SYSTEMS, TASK, locate


if TYPE_CHECKING:
    from typing import TypeAlias

    from transformers import PreTrainedConfig

    from .models.audiosep.modeling_audiosep import AudioSepForAudioSeparation
    from .models.audioslots.modeling_audioslots import AudioSlotsForAudioSeparation
    from .models.conv_tasnet.modeling_conv_tasnet import ConvTasNetForAudioSeparation
    from .models.meta_tasnet.modeling_meta_tasnet import MetaTasNetForAudioSeparation
    from .models.sepformer.modeling_sepformer import SepFormerForAudioSeparation
    from .models.spleeter.modeling_spleeter import SpleeterForAudioSeparation

    SeparationModel: TypeAlias = (
        AudioSepForAudioSeparation
        | AudioSlotsForAudioSeparation
        | ConvTasNetForAudioSeparation
        | MetaTasNetForAudioSeparation
        | SepFormerForAudioSeparation
        | SpleeterForAudioSeparation
    )


class AutoModelForAudioSeparation(_BaseAutoModelClass):
    """Finds the model class that belongs to a configuration; use `from_pretrained` or `from_config`."""

    _model_mapping: Any = _LazyAutoMapping(OrderedDict(), OrderedDict())

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> SeparationModel:
        """As in transformers, from a folder or repository that passed every check; code from it is never run.

        Raises:
            CheckpointError: naming the file and the reason.
        """
        _fill(cls)
        if kwargs.pop("trust_remote_code", None):
            raise CheckpointError("trust_remote_code=True is refused: only .safetensors are loaded, and no code.")
        options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        folder = _separator_folder(
            cls, pretrained_model_name_or_path, subfolder=kwargs.pop("subfolder", ""), **options
        )
        model: SeparationModel = super().from_pretrained(folder, *args, trust_remote_code=False, **kwargs)
        return model

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **kwargs: Any) -> SeparationModel:
        _fill(cls)
        model: SeparationModel = super().from_config(config, **kwargs)
        return model


def separator_config(model: str | os.PathLike[str]) -> PreTrainedConfig:
    """The configuration of a model that separates, by its name, after its folder passed every check but one.

    Its weights are not read.

    Raises:
        CheckpointError: if there is no such model, it is broken, or it does not separate.
    """
    auto = AutoModelForAudioSeparation
    _fill(auto)
    config: PreTrainedConfig = AutoConfig.from_pretrained(_separator_folder(auto, model))
    return config


def load_processor(model: Any, folder: Path) -> Any:
    """The processor of a separation model from its folder, by the class that its system has; None if it has none.

    Raises:
        CheckpointError: the files of the processor are missing, broken or hostile.
    """
    system = SYSTEMS[model.config.model_type]
    return None if system.processor is None else locate(system.processor).from_pretrained(folder)


def _fill(auto: type[_BaseAutoModelClass]) -> None:
    """Registers the separation models; at import time this could run into the middle of their own imports."""
    for system in SYSTEMS.values():
        if system.task == TASK and system.model is not None and system.config is not None:
            auto.register(locate(system.config), locate(system.model), exist_ok=True)


def _separator_folder(auto: type[_BaseAutoModelClass], model: str | os.PathLike[str], **options: Any) -> Path:
    """The checked folder of a model that separates; its weights may still hold what is no number."""
    folder = checked_folder(model, finite=False, **options)
    check_task(folder, model, TASK)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{shown(folder.name)} holds no config.json: it is no model that separates.")
    _check_type(auto, read_json(folder / "config.json").get("model_type"))
    return folder


def _check_type(auto: type[_BaseAutoModelClass], model_type: Any) -> None:
    """Refuses the configuration of another kind of model before transformers builds it."""
    model_types = sorted(config.model_type for config in auto._model_mapping)
    if model_type not in model_types:
        raise CheckpointError(
            f"config.json: model_type is {shown(model_type)}; models that separate are {', '.join(model_types)}."
        )


__all__ = ["AutoModelForAudioSeparation", "load_processor", "separator_config"]
