# SPDX-License-Identifier: Apache-2.0
"""The audio-separation pipeline with a text-queried model (a tiny AudioSep) and with fixed-source filters."""

from __future__ import annotations

import io
import resource
import tracemalloc
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import transformers
from promises_pipeline import PipelinePromises, audio, recording
from rounding import assert_same, rounding
from tiny_audiosep import tiny_audiosep, tiny_audiosep_with_presence
from tiny_conv_tasnet import tiny_conv_tasnet
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.pipelines.pt_utils import KeyDataset

from hubsep import AutoModelForAudioSeparation
from hubsep.audio import AudioLimits
from hubsep.errors import AudioError, CheckpointError
from hubsep.hub import HubsepConfigMixin, HubsepModelMixin
from hubsep.modeling import AudioSeparationOutput
from hubsep.pipelines import AudioSeparationPipeline, pipeline
from hubsep.shipped import DEFAULT_GENERATOR, DEFAULT_MODEL, SHIPPED


class FilterConfig(HubsepConfigMixin, PreTrainedConfig):
    """A low-pass filter and its complement."""

    model_type = "tiny_filter"
    sampling_rate: int = 8_000
    num_channels: int = 1
    taps: int = 31
    segment_samples: int = 4_000
    overlap_samples: int = 800
    minimum_samples: int = 16

    is_text_queried = False
    known_sounds = ()
    source_names = ("low", "high")


class FilterForAudioSeparation(HubsepModelMixin, PreTrainedModel):
    """Separates what is below from what is above; local, and it can be a thousandth off in the mean."""

    config_class = FilterConfig
    main_input_name = "input_values"
    input_modalities: Any = ("audio",)

    def __init__(self, config: FilterConfig):
        super().__init__(config)
        self.low = nn.Conv1d(1, 1, config.taps, padding="same", bias=False)
        self.offset = nn.Parameter(torch.zeros(1))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv1d):
            init.constant_(module.weight, 1 / self.config.taps)
        if isinstance(module, FilterForAudioSeparation):
            init.constant_(module.offset, 1e-3)

    def forward(self, input_values: Tensor, labels: Tensor | None = None) -> AudioSeparationOutput:
        if input_values.shape[-1] < self.config.minimum_samples or input_values.shape[1] != self.config.num_channels:
            raise AudioError(f"cannot filter {tuple(input_values.shape)}")
        rows = input_values.reshape(-1, 1, input_values.shape[-1]).to(self.low.weight.dtype)
        low = (self.low(rows) + self.offset).reshape(input_values.shape)
        return AudioSeparationOutput(sources=torch.stack([low, input_values - low], dim=1))


transformers.AutoConfig.register(FilterConfig.model_type, FilterConfig)
AutoModelForAudioSeparation.register(FilterConfig, FilterForAudioSeparation)


def tiny_filter(**fields: Any) -> tuple[FilterForAudioSeparation, None]:
    return FilterForAudioSeparation(FilterConfig(**fields)).eval(), None


class TestAudioSepPipeline(PipelinePromises):
    build = staticmethod(tiny_audiosep)


class TestAudioSepWithPresencePipeline(PipelinePromises):
    build = staticmethod(tiny_audiosep_with_presence)


class TestFilterPipeline(PipelinePromises):
    build = staticmethod(tiny_filter)


@pytest.fixture
def separate() -> AudioSeparationPipeline:
    model, processor = tiny_audiosep()
    return AudioSeparationPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture
def split() -> AudioSeparationPipeline:
    return AudioSeparationPipeline(model=tiny_filter()[0], device="cpu")


def test_every_kind_of_input_is_the_same_recording(split: AudioSeparationPipeline, tmp_path: Path):
    mixture = recording(9_000, 2)
    path = tmp_path / "a.wav"
    sf.write(path, mixture.T, 8_000, subtype="FLOAT")
    expected = audio(split(str(path)))
    kinds: list[Any] = [
        path,
        path.read_bytes(),
        io.BytesIO(path.read_bytes()),
        {"array": mixture, "sampling_rate": 8_000},
        {"raw": mixture, "sampling_rate": 8_000},
        {"array": torch.from_numpy(mixture), "sampling_rate": 8_000},
    ]
    for kind in kinds:
        assert np.array_equal(audio(split(kind)), expected), type(kind)
    for array in (mixture, torch.from_numpy(mixture)):
        assert np.array_equal(audio(split(array, sampling_rate=8_000)), expected), type(array)
    with path.open("rb") as file:
        assert np.array_equal(audio(split(file)), expected)
    assert audio(split(mixture[0], sampling_rate=8_000)).shape == (2, 1, 9_000)


def test_lists_tuples_and_datasets(split: AudioSeparationPipeline):
    class Recordings(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"array": recording(5_000, seed=index), "sampling_rate": 8_000}

    listed = [Recordings()[0], Recordings()[1]]
    expected = [audio(split(item)) for item in listed]
    rows: Any = [{"sound": item} for item in listed]
    for inputs in (listed, tuple(listed), Recordings(), KeyDataset(rows, "sound")):
        results = split(inputs)
        assert isinstance(results, list) == isinstance(inputs, list | tuple)
        assert all(np.array_equal(audio(r), e) for r, e in zip(results, expected, strict=True))


def test_a_table_of_datasets_is_answered_with_its_column(split: AudioSeparationPipeline):
    class Table:
        """What a `datasets` dataset is to us."""

        features: dict[str, Any] = {}

        def __init__(self) -> None:
            self.column_names = ["audio", "label"]

        def __getitem__(self, name: str) -> list[Any]:
            return [{"array": recording(5_000), "sampling_rate": 8_000}]

    table = Table()
    with pytest.raises(
        AudioError, match=r'rows, with audio, label; pass the column .* separate\(dataset\["audio"\]\)'
    ):
        split(table)  # type: ignore[call-overload]
    assert len(split(table["audio"])) == 1


def test_a_local_model_gives_the_same_whatever_the_segments(split: AudioSeparationPipeline):
    mixture = recording(40_000, 2)
    whole = audio(split(mixture, sampling_rate=8_000, segment_s=10, overlap_s=0))
    for segment_s, overlap_s, batch_size in [(None, None, 3), (0.1, 0.05, 1), (0.3, 0.29, 7), (1, 0.01, 2)]:
        chunked = split(mixture, sampling_rate=8_000, segment_s=segment_s, overlap_s=overlap_s, batch_size=batch_size)
        assert_same(audio(chunked), whole, terms=32)
    chunked = split(mixture, sampling_rate=8_000, segment_s=1, overlap_s=0.007)  # 14 samples of context, 15 needed
    assert np.abs(audio(chunked) - whole).max() > rounding(np.abs(whole).max(), terms=32)


def test_scores_of_models_that_do_not_say_are_shares_of_energy(split: AudioSeparationPipeline):
    mixture = recording(20_000)
    for source in split(mixture, sampling_rate=8_000):
        share = np.square(source["audio"]).sum() / np.square(mixture).sum()
        assert source["score"] == pytest.approx(min(1.0, share), rel=1e-5)


def test_channels_of_models_with_more_than_one():
    split = AudioSeparationPipeline(model=tiny_filter(num_channels=2)[0], device="cpu")
    reference = AudioSeparationPipeline(model=tiny_filter()[0], device="cpu")
    for channels in (1, 2):
        mixture = recording(9_000, channels)
        expected = audio(reference(mixture, sampling_rate=8_000))
        assert_same(audio(split(mixture, sampling_rate=8_000)), expected, terms=32)
    with pytest.raises(AudioError, match="1 or 2 channels, got 6"):
        split(recording(9_000, 6), sampling_rate=8_000)


def test_a_mono_model_keeps_the_channels_apart(split: AudioSeparationPipeline):
    mixture = recording(20_000, 6)
    sources = audio(split(mixture, sampling_rate=22_050))
    for channel in range(6):
        alone = audio(split(mixture[channel : channel + 1], sampling_rate=22_050))
        assert_same(sources[:, channel : channel + 1], alone, terms=32)


def test_wrong_sources_are_refused(split: AudioSeparationPipeline):
    split.model.config.source_names = ("low", "high", "between")
    with pytest.raises(CheckpointError, match=r"\(1, 2, 1, 4000\), expected \(1, 3, 1, 4000\)"):
        split(recording(9_000), sampling_rate=8_000)


def test_names_of_files(split: AudioSeparationPipeline, tmp_path: Path):
    mixture = {"array": recording(5_000), "sampling_rate": 8_000}
    sf.write(tmp_path / "a.wav", recording(5_000).T, 8_000)
    written = split.separate_file(tmp_path / "a.wav", tmp_path / "out")
    assert [source["path"] for source in written] == [tmp_path / "out/a.low.wav", tmp_path / "out/a.high.wav"]
    chosen: dict[str, str | Path] = {"low": tmp_path / "x/bass.wav", "high": str(tmp_path / "treble.wav")}
    assert [s["path"] for s in split.separate_file(mixture, chosen)] == [Path(path) for path in chosen.values()]
    by_template = split.separate_file(tmp_path / "a.wav", tmp_path, template="{label}/{name}.wav")
    assert [source["path"] for source in by_template] == [tmp_path / "low/a.wav", tmp_path / "high/a.wav"]
    before = (tmp_path / "a.wav").read_bytes()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"output": {"low": tmp_path / "x.wav"}}, "a path for each of low, high"),
        ({"output": {"low": tmp_path / "x.wav", "high": tmp_path / "x.wav"}}, "one file"),
        ({"output": tmp_path, "template": "{name}.out.wav"}, "one file"),
        ({"output": tmp_path, "template": "{kind}.wav"}, "{name}, {label}"),
        ({"output": {"low": tmp_path / "a.wav", "high": tmp_path / "b.wav"}}, "the recording itself"),
    ]
    for options, says in wrong:
        with pytest.raises(AudioError, match=says):
            split.separate_file(tmp_path / "a.wav", **options)
    assert (tmp_path / "a.wav").read_bytes() == before


def test_files_that_are_there_are_replaced_only_if_that_is_said(split: AudioSeparationPipeline, tmp_path: Path):
    mixture = {"array": recording(5_000), "sampling_rate": 8_000}
    mine = tmp_path / "high.wav"
    mine.write_bytes(b"mine")
    with pytest.raises(AudioError, match=r"high\.wav is there already; pass overwrite=True"):
        split.separate_file(mixture, tmp_path, template="{label}.wav")
    assert mine.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["high.wav"], "nor is another file left"
    first = split.separate_file(mixture, tmp_path, template="{label}.wav", overwrite=True)
    with pytest.raises(AudioError, match=r"low\.wav \(and 1 more\) is there already"):
        split.separate_file(mixture, {source["label"]: source["path"] for source in first})
    assert sf.info(mine).frames == 5_000


def test_labels_cannot_lead_out_of_the_folder(separate: AudioSeparationPipeline, tmp_path: Path):
    mixture = {"array": recording(5_000), "sampling_rate": 8_000}
    written = separate.separate_file(mixture, tmp_path / "out", queries=["../../rain", "dog barking / bell", "雨"])
    assert all(source["path"].parent == tmp_path / "out" for source in written)
    assert [source["label"] for source in written] == ["../../rain", "dog barking / bell", "雨"]
    with pytest.raises(AudioError, match="one file"):
        separate.separate_file(mixture, tmp_path / "out", queries=["dog?", "dog!"])


@pytest.mark.slow
def test_memory_of_streams_and_files_does_not_grow(split: AudioSeparationPipeline, tmp_path: Path):
    """Ten minutes after one minute: their three sources are 115 MB."""
    ten_seconds = recording(160_000).T

    def peak_after(minutes: int) -> int:
        path = tmp_path / f"{minutes}.wav"
        with sf.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
            for _ in range(minutes * 6):
                file.write(ten_seconds)
        total = sum(block[0]["audio"].shape[-1] for block in split.stream(path, residual=True, segment_s=5))
        assert total == minutes * 60 * 16_000
        split.separate_file(path, tmp_path / "out", residual=True, segment_s=5, subtype="FLOAT")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    first = peak_after(1)
    assert peak_after(10) - first <= 20_000  # kB


@pytest.mark.slow
def test_memory_of_a_call_is_the_result(split: AudioSeparationPipeline):
    """Five minutes: their three sources are 58 MB, and NumPy never holds a fifth more than that."""
    mixture = np.tile(recording(160_000), 30)
    tracemalloc.start()
    sources = split(mixture, sampling_rate=16_000, residual=True, segment_s=5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 1.2 * sum(source["audio"].nbytes for source in sources) + 10e6


def test_a_call_holds_no_more_of_a_file_than_is_read_as_a_whole(
    split: AudioSeparationPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, sound = tmp_path / "long.wav", np.sin(np.arange(9_000, dtype=np.float32))
    sf.write(path, sound, 8_000)
    monkeypatch.setattr(AudioLimits, "__init__", partialmethod(AudioLimits.__init__, max_values=5_000))
    with pytest.raises(AudioError, match=r"held in memory as a whole; separate_file\(...\) writes .* stream\(...\)"):
        split(path)
    assert sum(block[0]["audio"].shape[-1] for block in split.stream(path)) == 9_000
    assert len(split.separate_file(path, tmp_path)) == 2
    assert split({"array": sound, "sampling_rate": 8_000})[0]["audio"].shape[-1] == 9_000, "it is in memory"


def test_resampling_there_and_back_moves_nothing(split: AudioSeparationPipeline):
    """What the model passes on unchanged comes back in its place: the two sources of a tone add up to the tone."""
    time = np.arange(100_000) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 500 * time)).astype(np.float32)[None]
    error = (audio(split(tone, sampling_rate=44_100)).sum(axis=0) - tone)[:, 2_000:-2_000]
    # 1e-3 of the amplitude are 60 dB; a shift by one sample would be 0.07
    assert np.abs(error).max() <= 0.5e-3


@pytest.mark.slow
def test_a_checked_folder_becomes_a_pipeline(separate: AudioSeparationPipeline, tmp_path: Path):
    separate.save_pretrained(tmp_path / "saved")
    mixture = recording(9_000)
    expected = audio(separate(mixture, sampling_rate=8_000, queries="rain"))
    for model in (tmp_path / "saved", str(tmp_path / "saved")):
        loaded = pipeline("audio-separation", model, device="cpu", queries="rain")
        assert np.array_equal(audio(loaded(mixture, sampling_rate=8_000)), expected)
    half = pipeline(model=tmp_path / "saved", device="cpu", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half(mixture, sampling_rate=8_000, queries="rain")[0]["audio"].dtype == np.float32
    given = pipeline("audio-separation", separate.model, processor=separate.processor, device="cpu")
    assert np.array_equal(audio(given(mixture, sampling_rate=8_000, queries="rain")), expected)


def test_saving_keeps_the_card_and_replaces_the_weights(split: AudioSeparationPipeline, tmp_path: Path):
    split.save_pretrained(tmp_path / "saved", max_shard_size=100)
    (tmp_path / "saved" / "README.md").write_text("# a card")
    split.save_pretrained(tmp_path / "saved")
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == ["README.md", "config.json", "manifest.json", "model.safetensors"]
    build: Any = transformers.pipeline
    loaded = build("audio-separation", model=str(tmp_path / "saved"), device="cpu")
    assert loaded.processor is None
    assert "custom_pipelines" not in (tmp_path / "saved" / "config.json").read_text()


def test_transformers_tells_the_task_and_the_model_of_a_folder(separate: AudioSeparationPipeline, tmp_path: Path):
    separate.save_pretrained(tmp_path / "saved")
    assert "custom_pipelines" not in (tmp_path / "saved" / "config.json").read_text()
    build: Any = transformers.pipeline
    loaded = build(model=str(tmp_path / "saved"), device="cpu")
    assert isinstance(loaded, AudioSeparationPipeline)
    assert loaded.task == "audio-separation"
    mixture = {"array": recording(9_000), "sampling_rate": 8_000}
    assert np.array_equal(audio(loaded(mixture, queries="rain")), audio(separate(mixture, queries="rain")))
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "saved")) is type(separate.model)


def test_loading_shows_no_bar_over_weights(separate: AudioSeparationPipeline, tmp_path: Path):
    """Not to who just wants a pipeline; bars of other models, and hooks of others, stay as they were."""
    from transformers.utils import logging

    from hubsep.hub.bars import without_bar

    shown: list[Any] = []

    def hook(factory: Any, args: Any, kwargs: Any) -> Any:
        shown.append((kwargs.get("desc"), kwargs.get("disable")))
        return factory(*args, **kwargs)

    before = logging.set_tqdm_hook(hook)
    try:
        separate.save_pretrained(tmp_path / "saved")
        pipeline(model=tmp_path / "saved")
        assert [disabled for text, disabled in shown if text == "Loading weights"] == [True]
        with without_bar():
            list(logging.tqdm([1], desc="something else"))
        assert shown[-1] == ("something else", None)
        assert logging.set_tqdm_hook(hook) is hook
    finally:
        logging.set_tqdm_hook(before)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != DEFAULT_GENERATOR])
def test_transformers_opens_a_shipped_name(name: str):
    folder = SHIPPED[name]
    configs = [transformers.AutoConfig.from_pretrained(place).to_dict() for place in (name, folder)]
    assert [config.pop("_name_or_path") for config in configs] == [name, str(folder)]
    assert configs[0] == configs[1]
    ours, theirs = transformers.AutoModel.from_pretrained(folder), transformers.AutoModel.from_pretrained(name)
    assert type(ours) is type(theirs)
    assert all(
        torch.equal(*pair) for pair in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    build: Any = transformers.pipeline
    for separate in (build("audio-separation", model=name, device="cpu"), build(model=name, device="cpu")):
        assert isinstance(separate, AudioSeparationPipeline)


@pytest.mark.slow
def test_transformers_opens_the_shipped_generator():
    build: Any = transformers.pipeline
    few = {"seconds": 1.0, "num_inference_steps": 2}
    sound = build("text-to-audio", model=DEFAULT_GENERATOR)("rain", forward_params=few)
    assert sound["audio"].shape == (16_000,)


def test_names_of_others_are_looked_for_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(OSError, match="cached files") as error:
        transformers.AutoConfig.from_pretrained("a-name-of-nobody", cache_dir=tmp_path / "cache")
    assert "hubsep" not in str(error.value)
    monkeypatch.chdir(tmp_path)
    tiny_conv_tasnet()[0].save_pretrained("audiosep-small")
    opened = transformers.AutoModel.from_pretrained("audiosep-small")
    assert opened.config.model_type == "conv_tasnet", "a folder of that name wins"


def test_a_broken_folder_is_one_clear_error(split: AudioSeparationPipeline, tmp_path: Path):
    with pytest.raises(CheckpointError, match="no folder"):
        pipeline(model=tmp_path / "nothing")
    split.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        pipeline(model=tmp_path / "saved")


@pytest.mark.skipif(not SHIPPED[DEFAULT_MODEL].is_dir(), reason="this checkout has no trained model")
def test_the_shipped_model_needs_no_name():
    mixture = {"array": recording(20_000), "sampling_rate": 44_100}
    by_hubsep = pipeline(device="cpu")
    sound = by_hubsep.model.config.known_sounds[0]
    expected = by_hubsep(mixture, queries=sound)
    build: Any = transformers.pipeline
    found = build("audio-separation", device="cpu")(mixture, queries=sound)
    assert np.array_equal(audio(found), audio(expected))
    assert audio(found).shape == (1, 1, 20_000)


@pytest.mark.gpu
def test_on_an_accelerator(separate: AudioSeparationPipeline, tmp_path: Path):
    separate.save_pretrained(tmp_path / "saved")
    mixture = {"array": recording(20_000, 2), "sampling_rate": 44_100}
    expected = audio(separate(mixture, queries=["rain", "bell"]))
    placements: list[dict[str, Any]] = [{"device": "cuda"}, {"device_map": "auto"}]
    for options in placements:
        loaded = pipeline(model=tmp_path / "saved", **options)
        assert loaded.model.device.type == "cuda"
        found = audio(loaded(mixture, queries=["rain", "bell"], batch_size=4))
        assert np.abs(found - expected).max() <= 1e-4
