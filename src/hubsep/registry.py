# SPDX-License-Identifier: Apache-2.0
"""One row per system; classes are named by dotted path and imported when they are used.

Decisions: reading the table imports nothing, so `import hubsep` costs milliseconds where PyTorch costs seconds. The
face of a package, its `__init__.py`, names what it offers in the same way.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class System:
    """What hubsep knows about one system; classes and modules are dotted paths.

    Attributes:
        model_type: name in `config.json` and on the command line.
        config: configuration class, or None where the pipeline is put together from several models.
        model: model class, likewise.
        processor: processor class, or None where the model takes bare waveforms.
        sampling_rate: of the published weights, in Hz; if none were published, of the default configuration.
        task: what `pipeline(task, ...)` calls it; of a part of another system, the Hub's tag.
        pipeline: class that users call, or None for a part of another system.
        converter: module with a `convert` function for the authors' checkpoints, or None if none were published.
        paper: where the system was published.
        status: "trained" if weights are shipped, "converted" if authors' can be, else "implemented".
        feature_extractor: class that prepares waveforms, where that alone is asked of a processor.
        pretraining: model class with the parts that only training needs.
    """

    model_type: str
    config: str | None
    model: str | None
    processor: str | None
    sampling_rate: int
    task: str
    pipeline: str | None
    converter: str | None
    paper: str
    status: str
    feature_extractor: str | None = None
    pretraining: str | None = None


TASK: Final = "audio-separation"
PIPELINE = "hubsep.pipelines.separation.AudioSeparationPipeline"
TEXT_TO_AUDIO: Final = "text-to-audio"
MOST_SECONDS: Final = 3_600  # of sound that is made at once, and of one sound: it stays in memory
# an AudioLDM 2 is several models; these stand for it where transformers wants one
GENERATION_CONFIG = "hubsep.models.audioldm2.configuration_audioldm2.AudioLDM2Config"
GENERATION_MODEL = "hubsep.pipelines.text_to_audio.AudioLDM2ForTextToWaveform"
GENERATION_READER = "hubsep.pipelines.text_to_audio.AudioLDM2TextReader"

SYSTEMS: dict[str, System] = {
    "audiosep": System(
        model_type="audiosep",
        config="hubsep.models.audiosep.configuration_audiosep.AudioSepConfig",
        model="hubsep.models.audiosep.modeling_audiosep.AudioSepForAudioSeparation",
        processor="hubsep.models.audiosep.processing_audiosep.AudioSepProcessor",
        sampling_rate=32_000,
        task=TASK,
        pipeline=PIPELINE,
        converter="hubsep.conversion.audiosep",
        paper="https://arxiv.org/abs/2308.05037",
        status="trained",
    ),
    "sepformer": System(
        model_type="sepformer",
        config="hubsep.models.sepformer.configuration_sepformer.SepFormerConfig",
        model="hubsep.models.sepformer.modeling_sepformer.SepFormerForAudioSeparation",
        processor=None,
        sampling_rate=8_000,
        task=TASK,
        pipeline=PIPELINE,
        converter="hubsep.conversion.sepformer",
        paper="https://arxiv.org/abs/2010.13154",
        status="converted",
    ),
    "conv_tasnet": System(
        model_type="conv_tasnet",
        config="hubsep.models.conv_tasnet.configuration_conv_tasnet.ConvTasNetConfig",
        model="hubsep.models.conv_tasnet.modeling_conv_tasnet.ConvTasNetForAudioSeparation",
        processor=None,
        sampling_rate=8_000,
        task=TASK,
        pipeline=PIPELINE,
        converter="hubsep.conversion.conv_tasnet",
        paper="https://arxiv.org/abs/1809.07454",
        status="trained",
    ),
    "spleeter": System(
        model_type="spleeter",
        config="hubsep.models.spleeter.configuration_spleeter.SpleeterConfig",
        model="hubsep.models.spleeter.modeling_spleeter.SpleeterForAudioSeparation",
        processor=None,
        sampling_rate=44_100,
        task=TASK,
        pipeline=PIPELINE,
        converter="hubsep.conversion.spleeter",
        paper="https://joss.theoj.org/papers/10.21105/joss.02154",
        status="converted",
    ),
    "audioslots": System(
        model_type="audioslots",
        config="hubsep.models.audioslots.configuration_audioslots.AudioSlotsConfig",
        model="hubsep.models.audioslots.modeling_audioslots.AudioSlotsForAudioSeparation",
        processor=None,
        sampling_rate=16_000,
        task=TASK,
        pipeline=PIPELINE,
        converter=None,
        paper="https://arxiv.org/abs/2305.05591",
        status="implemented",
    ),
    "meta_tasnet": System(
        model_type="meta_tasnet",
        config="hubsep.models.meta_tasnet.configuration_meta_tasnet.MetaTasNetConfig",
        model="hubsep.models.meta_tasnet.modeling_meta_tasnet.MetaTasNetForAudioSeparation",
        processor=None,
        sampling_rate=32_000,
        task=TASK,
        pipeline=PIPELINE,
        converter="hubsep.conversion.meta_tasnet",
        paper="https://arxiv.org/abs/2002.07016",
        status="converted",
    ),
    "audiomae": System(
        model_type="audiomae",
        config="hubsep.models.audiomae.configuration_audiomae.AudioMAEConfig",
        model="hubsep.models.audiomae.modeling_audiomae.AudioMAEModel",
        processor=None,
        sampling_rate=16_000,
        task="feature-extraction",
        pipeline=None,
        converter="hubsep.conversion.audiomae",
        paper="https://arxiv.org/abs/2207.06405",
        status="converted",
        feature_extractor="hubsep.models.audiomae.feature_extraction_audiomae.AudioMAEFeatureExtractor",
        pretraining="hubsep.models.audiomae.modeling_audiomae.AudioMAEForPreTraining",
    ),
    "audioldm2": System(
        model_type="audioldm2",
        config=None,
        model=None,
        processor=None,
        sampling_rate=16_000,
        task=TEXT_TO_AUDIO,
        pipeline="hubsep.pipelines.audioldm2.AudioLDM2Pipeline",
        converter="hubsep.conversion.audioldm2",
        paper="https://arxiv.org/abs/2308.05734",
        status="trained",
    ),
}


def locate(path: str) -> Any:
    """Imports the class or function a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def face(package: str, offers: Mapping[str, str]) -> None:
    """Gives a package its `__getattr__` and `__dir__`: what it offers is imported when it is used.

    A type checker does not see them, so a name that the package does not declare is an error to it.

    Args:
        package: its name.
        offers: module, absolute or relative to the package, and the names it holds, with spaces between.
    """
    homes = {name: module for module, names in offers.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name], package), name)
        vars(sys.modules[package])[name] = value
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    vars(sys.modules[package]).update(__getattr__=get, __dir__=names)


__all__ = ["SYSTEMS", "TASK", "MOST_SECONDS", "TEXT_TO_AUDIO", "System", "face", "locate"]
