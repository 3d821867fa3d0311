# SPDX-License-Identifier: Apache-2.0
"""One row per system, and how transformers comes to know them.

Decisions: a row names its classes by dotted path: reading the table imports nothing, and `import hubsep` costs
milliseconds. transformers is told about the systems when it has imported the module that holds the table in question,
and its table imports a class when it is looked up, not in the middle of transformers' own imports.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from .lazy_tables import Later, LazyTable, add
from .registration_errors import name_folders


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
# an AudioLDM 2 is several models; these stand for it where transformers wants one
GENERATION_CONFIG = "hubsep.models.audioldm2.configuration_audioldm2.AudioLDM2Config"
GENERATION_MODEL = "hubsep.models.audioldm2.modeling_audioldm2.AudioLDM2ForTextToWaveform"
GENERATION_READER = "hubsep.models.audioldm2.tokenization_audioldm2.AudioLDM2TextReader"

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

CHECKPOINTS = Path(__file__).parent / "checkpoints"
SHIPPED: dict[str, Path] = {
    name: CHECKPOINTS / name
    for name in (
        "audiosep-small",
        "conv-tasnet-small",
        "speech-separation-small",
        "audioslots-small",
        "spleeter-small-2stems",
        "spleeter-small-4stems",
        "audioldm2-tiny",
    )
}
DEFAULT_MODEL = "audiosep-small"
DEFAULT_GENERATOR = "audioldm2-tiny"
SEPARATORS = tuple(name for name in SHIPPED if name != DEFAULT_GENERATOR)


def locate(path: str) -> Any:
    """Imports the class or function a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _later(path: str) -> Later:
    return Later(path, locate)


def _by_config(field: str, systems: Iterable[System]) -> dict[Any, Later]:
    """The classes that a field of the rows names, by their configurations."""
    paths = {system.config: getattr(system, field) for system in systems if system.config is not None}
    return {locate(config): _later(path) for config, path in paths.items() if path is not None}


def _register_configs(auto: ModuleType) -> None:
    configs = {name: _later(system.config) for name, system in SYSTEMS.items() if system.config is not None}
    add(auto.CONFIG_MAPPING, {**configs, "audioldm2": _later(GENERATION_CONFIG)})


def _register_processors(auto: ModuleType) -> None:
    add(auto.PROCESSOR_MAPPING, _by_config("processor", SYSTEMS.values()))


def _register_feature_extractors(auto: ModuleType) -> None:
    add(auto.FEATURE_EXTRACTOR_MAPPING, _by_config("feature_extractor", SYSTEMS.values()))


def _register_models(auto: ModuleType) -> None:
    add(auto.MODEL_MAPPING, _by_config("model", SYSTEMS.values()))
    add(auto.MODEL_FOR_PRETRAINING_MAPPING, _by_config("pretraining", SYSTEMS.values()))
    add(auto.MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING, {locate(GENERATION_CONFIG): _later(GENERATION_MODEL)})


def _register_reader(auto: ModuleType) -> None:
    add(auto.TOKENIZER_MAPPING, {locate(GENERATION_CONFIG): _later(GENERATION_READER)})


def _register_pipelines(pipelines: ModuleType) -> None:
    from .auto import AutoModelForAudioSeparation

    if TASK in pipelines.PIPELINE_REGISTRY.supported_tasks:
        return
    # as `register_pipeline` would write it, which also marks the class: then `save_pretrained` copies source files
    pipelines.PIPELINE_REGISTRY.supported_tasks[TASK] = LazyTable(
        impl=_later(PIPELINE),
        pt=(AutoModelForAudioSeparation,),
        default={"model": (str(SHIPPED[DEFAULT_MODEL]), "main")},
        type="audio",
    )


STEPS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.feature_extraction_auto": _register_feature_extractors,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.processing_auto": _register_processors,
    "transformers.models.auto.tokenization_auto": _register_reader,
    "transformers.pipelines": _register_pipelines,
    "transformers.utils.hub": lambda hub: name_folders(hub, SHIPPED),
}


class _AfterImport(MetaPathFinder):
    """Runs the step that belongs to a module of transformers right after that was imported."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        step = STEPS.get(fullname)
        spec = PathFinder.find_spec(fullname, path, target) if step is not None else None
        if step is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_then_register(module: ModuleType) -> None:
            execute(module)
            step(module)

        spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Makes transformers' auto classes and `pipeline()` know the systems, now or when they are imported."""
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    for name, step in STEPS.items():
        if name in sys.modules:
            step(sys.modules[name])


__all__ = [
    "CHECKPOINTS", "DEFAULT_GENERATOR", "DEFAULT_MODEL", "SEPARATORS", "SHIPPED", "SYSTEMS", "TASK", "TEXT_TO_AUDIO",
    "System", "locate", "register",
]  # fmt: skip
