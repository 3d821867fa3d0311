# SPDX-License-Identifier: Apache-2.0
"""Audio separation and text-to-audio on the Hugging Face Hub.

Importing this package makes transformers know its systems: `pipeline("audio-separation")`, `AutoConfig`,
`AutoProcessor`. Nothing heavy is imported until a name below is used, so that the command line answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import AudioError, CheckpointError, ConversionError, DataError, HubsepError, QueryError
from .registration import register
from .registry import SYSTEMS, face
from .shipped import SHIPPED


if TYPE_CHECKING:
    from .audio.reader import Recording, open_audio, read_audio, write_audio
    from .auto import AutoModelForAudioSeparation
    from .conversion import convert
    from .modeling import AudioSeparationOutput
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
    from .pipelines.audioldm2.pipeline import AudioLDM2Pipeline

__version__ = "0.1.0"

face(
    __name__,
    {
        ".audio": "Recording open_audio read_audio write_audio",
        ".auto": "AutoModelForAudioSeparation",
        ".conversion": "convert",
        ".modeling": "AudioSeparationOutput",
        ".models.audiomae.configuration_audiomae": "AudioMAEConfig",
        ".models.audiomae.feature_extraction_audiomae": "AudioMAEFeatureExtractor",
        ".models.audiomae.modeling_audiomae": "AudioMAEForPreTraining AudioMAEModel",
        ".models.audiosep.configuration_audiosep": "AudioSepConfig",
        ".models.audiosep.modeling_audiosep": "AudioSepForAudioSeparation",
        ".models.audiosep.processing_audiosep": "AudioSepProcessor",
        ".models.audioslots.configuration_audioslots": "AudioSlotsConfig",
        ".models.audioslots.modeling_audioslots": "AudioSlotsForAudioSeparation",
        ".models.conv_tasnet.configuration_conv_tasnet": "ConvTasNetConfig",
        ".models.conv_tasnet.modeling_conv_tasnet": "ConvTasNetForAudioSeparation",
        ".models.conv_tasnet.streaming_conv_tasnet": "ConvTasNetStream",
        ".models.griffin_lim.configuration_griffin_lim": "GriffinLimVocoderConfig",
        ".models.griffin_lim.modeling_griffin_lim": "GriffinLimVocoder",
        ".models.meta_tasnet.configuration_meta_tasnet": "MetaTasNetConfig",
        ".models.meta_tasnet.modeling_meta_tasnet": "MetaTasNetForAudioSeparation",
        ".models.sepformer.configuration_sepformer": "SepFormerConfig",
        ".models.sepformer.modeling_sepformer": "SepFormerForAudioSeparation",
        ".models.spleeter.configuration_spleeter": "SpleeterConfig",
        ".models.spleeter.modeling_spleeter": "SpleeterForAudioSeparation",
        ".pipelines": "AudioSeparationPipeline pipeline",
        ".pipelines.audioldm2": "AudioLDM2Pipeline",
    },
)


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
