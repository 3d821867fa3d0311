# SPDX-License-Identifier: Apache-2.0
"""Audio separation and text-to-audio on the Hugging Face Hub.

Importing this package makes transformers know its systems: `pipeline("audio-separation")`, `AutoConfig`,
`AutoProcessor`. Nothing heavy is imported until a name below is used, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import AudioError, CheckpointError, ConversionError, DataError, HubsepError, QueryError
from .registry import SHIPPED, SYSTEMS, register


if TYPE_CHECKING:
    from .audio import Recording, open_audio, read_audio, write_audio
    from .auto import AutoModelForAudioSeparation
    from .conversion import convert
    from .modeling_outputs import AudioSeparationOutput
    from .models.audiomae.configuration_audiomae import AudioMAEConfig
    from .models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor
    from .models.audiomae.modeling_audiomae import AudioMAEForPreTraining, AudioMAEModel
    from .models.audiosep.configuration_audiosep import AudioSepConfig
    from .models.audiosep.modeling_audiosep import AudioSepForAudioSeparation
    from .models.audiosep.processing_audiosep import AudioSepProcessor
    from .models.audioslots.configuration_audioslots import AudioSlotsConfig
    from .models.audioslots.modeling_audioslots import AudioSlotsForAudioSeparation
    from .models.conv_tasnet.configuration_conv_tasnet import ConvTasNetConfig
    from .models.conv_tasnet.modeling_conv_tasnet import ConvTasNetForAudioSeparation
    from .models.conv_tasnet.streaming_conv_tasnet import ConvTasNetStream
    from .models.griffin_lim.configuration_griffin_lim import GriffinLimVocoderConfig
    from .models.griffin_lim.modeling_griffin_lim import GriffinLimVocoder
    from .models.meta_tasnet.configuration_meta_tasnet import MetaTasNetConfig
    from .models.meta_tasnet.modeling_meta_tasnet import MetaTasNetForAudioSeparation
    from .models.sepformer.configuration_sepformer import SepFormerConfig
    from .models.sepformer.modeling_sepformer import SepFormerForAudioSeparation
    from .models.spleeter.configuration_spleeter import SpleeterConfig
    from .models.spleeter.modeling_spleeter import SpleeterForAudioSeparation
    from .pipelines import AudioSeparationPipeline, pipeline
    from .pipelines.audioldm2 import AudioLDM2Pipeline

__version__ = "0.1.0"

_HOMES = {
    "AudioLDM2Pipeline": "pipelines.audioldm2",
    "AudioMAEConfig": "models.audiomae.configuration_audiomae",
    "AudioMAEFeatureExtractor": "models.audiomae.feature_extraction_audiomae",
    "AudioMAEForPreTraining": "models.audiomae.modeling_audiomae",
    "AudioMAEModel": "models.audiomae.modeling_audiomae",
    "AudioSepConfig": "models.audiosep.configuration_audiosep",
    "AudioSepForAudioSeparation": "models.audiosep.modeling_audiosep",
    "AudioSepProcessor": "models.audiosep.processing_audiosep",
    "AudioSeparationOutput": "modeling_outputs",
    "AudioSlotsConfig": "models.audioslots.configuration_audioslots",
    "AudioSlotsForAudioSeparation": "models.audioslots.modeling_audioslots",
    "SepFormerConfig": "models.sepformer.configuration_sepformer",
    "SepFormerForAudioSeparation": "models.sepformer.modeling_sepformer",
    "SpleeterConfig": "models.spleeter.configuration_spleeter",
    "SpleeterForAudioSeparation": "models.spleeter.modeling_spleeter",
    "AudioSeparationPipeline": "pipelines",
    "AutoModelForAudioSeparation": "auto",
    "ConvTasNetConfig": "models.conv_tasnet.configuration_conv_tasnet",
    "ConvTasNetForAudioSeparation": "models.conv_tasnet.modeling_conv_tasnet",
    "ConvTasNetStream": "models.conv_tasnet.streaming_conv_tasnet",
    "GriffinLimVocoder": "models.griffin_lim.modeling_griffin_lim",
    "GriffinLimVocoderConfig": "models.griffin_lim.configuration_griffin_lim",
    "MetaTasNetConfig": "models.meta_tasnet.configuration_meta_tasnet",
    "MetaTasNetForAudioSeparation": "models.meta_tasnet.modeling_meta_tasnet",
    "Recording": "audio",
    "convert": "conversion",
    "open_audio": "audio",
    "pipeline": "pipelines",
    "read_audio": "audio",
    "write_audio": "audio",
}


if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'hubsep' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"hubsep.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


register()

__all__ = [
    "SHIPPED",
    "SYSTEMS",
    "AudioError",
    "AudioLDM2Pipeline",
    "AudioMAEConfig",
    "AudioMAEFeatureExtractor",
    "AudioMAEForPreTraining",
    "AudioMAEModel",
    "AudioSepConfig",
    "AudioSepForAudioSeparation",
    "AudioSepProcessor",
    "AudioSeparationOutput",
    "AudioSeparationPipeline",
    "AudioSlotsConfig",
    "AudioSlotsForAudioSeparation",
    "AutoModelForAudioSeparation",
    "CheckpointError",
    "ConvTasNetConfig",
    "ConvTasNetForAudioSeparation",
    "ConvTasNetStream",
    "ConversionError",
    "DataError",
    "GriffinLimVocoder",
    "GriffinLimVocoderConfig",
    "HubsepError",
    "MetaTasNetConfig",
    "MetaTasNetForAudioSeparation",
    "SepFormerConfig",
    "SepFormerForAudioSeparation",
    "SpleeterConfig",
    "SpleeterForAudioSeparation",
    "QueryError",
    "Recording",
    "__version__",
    "convert",
    "open_audio",
    "pipeline",
    "read_audio",
    "register",
    "write_audio",
]
