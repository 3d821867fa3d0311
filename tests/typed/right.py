# SPDX-License-Identifier: Apache-2.0
"""What a user writes: a type checker finds nothing in it, and knows every type below."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_type

import hubsep
from hubsep import AudioLDM2Pipeline, AutoModelForAudioSeparation, ConvTasNetConfig, ConvTasNetForAudioSeparation
from hubsep.pipelines import AudioSeparationPipeline
from hubsep.pipelines.audioldm2 import AudioLDM2Output
from hubsep.pipelines.results import GeneratedSound, SeparatedSource, SourceBlock, SourceFile
from hubsep.pipelines.text_to_audio import TextToAudioPipeline


def separate(path: Path, samples: NDArray[np.float32]) -> None:
    pipe = hubsep.pipeline("audio-separation", model="conv-tasnet-small", device="cpu", batch_size=2)
    assert_type(pipe, AudioSeparationPipeline)
    assert_type(hubsep.pipeline(), AudioSeparationPipeline)
    sources = pipe(path, residual=True, segment_s=4.0)
    assert_type(sources, list[SeparatedSource])
    for source in sources:
        hubsep.write_audio(f"{source['label']}.wav", source["audio"], source["sampling_rate"])
        print(f"{source['score']:.2f}", source.get("understood_as"), source["audio"].shape)
    assert_type(pipe([path, samples, {"array": samples, "sampling_rate": 8_000}]), list[list[SeparatedSource]])
    assert_type(pipe(iter([path])), Iterator[list[SeparatedSource]])
    pipe(torch.from_numpy(samples), sampling_rate=8_000, queries=["rain", "a dog"], on_short="warn")
    for blocks in pipe.stream(path, duration_s=3.0):
        assert_type(blocks, list[SourceBlock])
    files = pipe.separate_file(str(path), "stems", template="{name}_{label}.flac", subtype="PCM_16", sources="vocals")
    assert_type(files, list[SourceFile])
    print(files[0]["path"].name)
    pipe.save_pretrained("copy")


def read(path: str) -> None:
    recording = hubsep.read_audio(path, on_short="warn")
    assert_type(recording.sampling_rate, int)
    hubsep.write_audio("copy.flac", recording.waveform, recording.sampling_rate, subtype="PCM_24")
    with hubsep.open_audio(Path(path), offset_s=1.0) as reader:
        print(sum(block.shape[1] for block in reader.blocks()))


def models() -> None:
    config = ConvTasNetConfig(num_sources=3, norm="cln", causal=True)
    model = ConvTasNetForAudioSeparation(config)
    assert_type(ConvTasNetForAudioSeparation.from_pretrained("folder"), ConvTasNetForAudioSeparation)
    model, report = ConvTasNetForAudioSeparation.from_pretrained("folder", output_loading_info=True)
    print(report.keys(), model.config.num_sources)
    loaded = AutoModelForAudioSeparation.from_pretrained("folder", dtype=torch.float32)
    loaded.save_pretrained("folder")
    converted = hubsep.convert("conv_tasnet", "checkpoint.bin", "folder", licence="CC-BY-4.0")
    assert_type(converted, ConvTasNetForAudioSeparation)


def generate() -> None:
    pipe = AudioLDM2Pipeline.from_pretrained("cvssp/audioldm2", on_demand=True, dtype=torch.bfloat16)
    assert_type(pipe, AudioLDM2Pipeline)
    made = pipe("rain", seconds=2.0, num_inference_steps=10, generator=torch.Generator().manual_seed(0))
    assert_type(made, AudioLDM2Output)
    print(made.audios.shape, made.sampling_rate)
    audios, scores = pipe(["rain", "a dog"], num_waveforms_per_prompt=2, return_dict=False)
    print(audios.shape, None if scores is None else scores.shape)
    print(pipe.vary("rain.wav", "rain", strength=0.5, guidance_scale=2.0).audios)
    maker = hubsep.pipeline("text-to-audio", model="cvssp/audioldm2", guidance_scale=2.0)
    assert_type(maker, TextToAudioPipeline)
    assert_type(maker("rain", num_inference_steps=10), GeneratedSound)
    assert_type(maker(["rain", "hail"], batch_size=2, forward_params={"seconds": 5.0}), list[GeneratedSound])
    assert_type(maker(text for text in ("rain", "hail")), Iterator[GeneratedSound])


try:
    separate(Path("song.wav"), np.zeros((1, 8_000), np.float32))
except (hubsep.AudioError, hubsep.CheckpointError) as error:
    print(error)
