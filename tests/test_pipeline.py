# SPDX-License-Identifier: Apache-2.0
"""The audio-separation pipeline with a text-queried model (a tiny AudioSep) and with fixed-source filters."""

from __future__ import annotations

import io
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import transformers
from promises_pipeline import PipelinePromises, audio, recording
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import ClapConfig, ClapFeatureExtractor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.pipelines.pt_utils import KeyDataset

from hubsep import AudioSepConfig, AudioSepForAudioSeparation, AudioSepProcessor, AutoModelForAudioSeparation
from hubsep.errors import AudioError, CheckpointError, QueryError
from hubsep.hub import HubsepModelMixin
from hubsep.modeling_outputs import AudioSeparationOutput
from hubsep.pipelines import AudioSeparationPipeline, pipeline


WORDS = ["<s>", "<pad>", "</s>", "<unk>", "dog", "barking", "rain", "bell", "car", "horn"]


def tiny_processor() -> AudioSepProcessor:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return AudioSepProcessor(
        ClapFeatureExtractor(
            feature_size=16,
            sampling_rate=8_000,
            hop_length=80,
            fft_window_size=256,
            max_length_s=1,
            frequency_max=4_000,
            padding="repeatpad",
            truncation="rand_trunc",
        ),
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=32),
    )


def tiny_audiosep(**fields: Any) -> tuple[AudioSepForAudioSeparation, AudioSepProcessor]:
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 40,
    }
    sound = {
        "window_size": 4,
        "num_mel_bins": 16,
        "spec_size": 64,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "hidden_size": 16,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_hidden_layers": 2,
        "num_attention_heads": [2, 2],
    }
    config = AudioSepConfig(
        query_config=ClapConfig(text_config=text, audio_config=sound, projection_dim=16),
        **{
            "sampling_rate": 8_000,
            "n_fft": 64,
            "hop_length": 16,
            "stem_channels": 4,
            "encoder_channels": [4, 8],
            "encoder_strides": [[2, 2], [1, 2]],
            "segment_samples": 4_096,
            "overlap_samples": 1_024,
            "known_sounds": ["dog barking", "rain"],
            **fields,
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AudioSepForAudioSeparation(config).eval(), tiny_processor()


def tiny_audiosep_with_presence() -> tuple[AudioSepForAudioSeparation, AudioSepProcessor]:
    return tiny_audiosep(presence_head=True, normalize_input=True, input_features="compressed")


class FilterConfig(PreTrainedConfig):
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


class FilterForAudioSeparation(HubsepModelMixin, PreTrainedModel):  # type: ignore[misc]
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
            transformers.initialization.constant_(module.weight, 1 / self.config.taps)
        if isinstance(module, FilterForAudioSeparation):
            transformers.initialization.constant_(module.offset, 1e-3)

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


def embeddings(separate: Any, texts: list[str]) -> Tensor:
    with torch.no_grad():
        return separate.model.encode_text(**separate.processor(text=texts, return_tensors="pt"))


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


def test_a_local_model_gives_the_same_whatever_the_segments(split: AudioSeparationPipeline):
    mixture = recording(40_000, 2)
    whole = audio(split(mixture, sampling_rate=8_000, segment_s=10, overlap_s=0))
    for segment_s, overlap_s, batch_size in [(None, None, 3), (0.1, 0.05, 1), (0.3, 0.29, 7), (1, 0.01, 2)]:
        chunked = split(mixture, sampling_rate=8_000, segment_s=segment_s, overlap_s=overlap_s, batch_size=batch_size)
        assert np.abs(audio(chunked) - whole).max() <= 1e-6
    chunked = split(mixture, sampling_rate=8_000, segment_s=1, overlap_s=0.007)  # 14 samples of context, 15 needed
    assert np.abs(audio(chunked) - whole).max() > 1e-6


def test_options_of_the_pipeline_are_defaults_of_its_calls():
    model, processor = tiny_audiosep()
    separate = AudioSeparationPipeline(
        model=model,
        processor=processor,
        device="cpu",
        queries="rain",
        residual=True,
        sampling_rate=8_000,
        batch_size=2,
    )
    mixture = recording(9_000)
    labels = lambda **options: [source["label"] for source in separate(mixture, **options)]  # noqa: E731
    assert labels() == ["rain", "residual"]
    assert labels(residual=False) == ["rain"]
    assert labels(queries=["bell", "car"]) == ["bell", "car", "residual"]
    assert labels(query_embeds=nn.functional.normalize(torch.ones(16), dim=0)) == ["query 1", "residual"]
    with pytest.raises(TypeError, match="unknown option query"):
        AudioSeparationPipeline(model=model, processor=processor, device="cpu", query="rain")


def test_queries_of_all_kinds_in_one_call(separate: AudioSeparationPipeline, tmp_path: Path):
    sf.write(tmp_path / "my bell.wav", recording(6_000, 2, seed=5).T, 16_000)
    rain, dog = embeddings(separate, ["rain", "dog barking"])
    mixture = {"array": recording(9_000), "sampling_rate": 8_000}
    sources = separate(
        mixture,
        queries=["rain", "dog barking"],
        query_audio=[tmp_path / "my bell.wav", {"array": recording(4_000, seed=6), "sampling_rate": 8_000}],
        query_embeds={"given": dog.numpy()},
    )
    assert [source["label"] for source in sources] == ["rain", "dog barking", "my bell", "example 2", "given"]
    waveforms = audio(sources)
    assert np.array_equal(waveforms[1], waveforms[4]), "the same embedding, once as text and once as numbers"
    for first in range(4):
        for second in range(first):
            assert np.abs(waveforms[first] - waveforms[second]).max() > 1e-5, "two queries gave the same"
    stacked = separate(mixture, query_embeds=torch.stack([rain, dog]))
    assert [source["label"] for source in stacked] == ["query 1", "query 2"]
    assert np.abs(audio(stacked) - waveforms[:2]).max() <= 1e-6
    named = separate(mixture, query_audio={"ding": tmp_path / "my bell.wav"})
    assert named[0]["label"] == "ding"
    assert np.abs(named[0]["audio"] - waveforms[2]).max() <= 1e-6
    alone = separate(mixture, queries="rain")
    assert np.abs(alone[0]["audio"] - waveforms[0]).max() <= 1e-6


def test_negative_queries_change_every_source(separate: AudioSeparationPipeline):
    mixture = {"array": recording(9_000), "sampling_rate": 8_000}
    plain = audio(separate(mixture, queries=["rain", "bell"]))
    without = audio(separate(mixture, queries=["rain", "bell"], negative_queries="car horn"))
    assert (np.abs(plain - without).max(axis=(1, 2)) > 1e-5).all()
    embeds = embeddings(separate, ["rain", "bell", "car horn"])
    with torch.no_grad():
        direct = separate.model(torch.from_numpy(recording(9_000)[None, :, :4_000]), embeds[:2], embeds[2:]).sources
    called = separate(
        {"array": recording(9_000)[:, :4_000], "sampling_rate": 8_000},
        queries=["rain", "bell"],
        negative_queries=["car horn"],
    )
    assert np.abs(audio(called) - direct[0].numpy()).max() <= 1e-6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "dog barking, rain"),
        ({"negative_queries": "rain"}, "pass queries"),
        ({"queries": []}, "empty list"),
        ({"queries": ["rain", ""]}, "a list of texts"),
        ({"queries": 5}, "a list of texts"),
        ({"queries": ["rain", "Rain "]}, "asked for twice"),
        ({"queries": ["rain", "residual"], "residual": True}, "asked for twice"),
        ({"queries": "rain", "query_embeds": {"rain": torch.eye(16)[0]}}, "asked for twice"),
        ({"query_embeds": torch.ones(16)}, "divide it by its norm"),
        ({"query_embeds": torch.full((16,), torch.nan)}, "length nan"),
        ({"query_embeds": torch.zeros(1, 1, 16)}, r"\(num_queries, dim\)"),
        ({"query_embeds": torch.eye(8)[0]}, "16"),
        ({"query_embeds": torch.eye(8)[0], "queries": "rain"}, "8 and 16"),
        ({"query_embeds": {3: torch.eye(16)[0]}}, "must be a text"),
        ({"query_audio": []}, "query_audio is empty"),
        ({"queries": "rain " * 40}, "tokens"),
    ],
)
def test_queries_that_cannot_be_answered(separate: AudioSeparationPipeline, options: dict[str, Any], says: str):
    with pytest.raises(QueryError, match=says):
        separate(recording(9_000), sampling_rate=8_000, **options)


def test_queries_are_checked_before_anything_is_read(separate: AudioSeparationPipeline):
    with pytest.raises(QueryError, match="pass queries"):
        separate.stream("there is no such file.wav")
    with pytest.raises(QueryError, match="pass queries"):
        separate(iter(["there is no such file.wav"]))


def test_a_processor_is_needed_for_texts_only():
    separate = AudioSeparationPipeline(model=tiny_audiosep()[0], device="cpu")
    with pytest.raises(CheckpointError, match="without a processor"):
        separate(recording(9_000), sampling_rate=8_000, queries="rain")
    assert separate(recording(9_000), sampling_rate=8_000, query_embeds=torch.eye(16)[0])[0]["label"] == "query 1"


def test_scores_say_what_the_model_is_surest_of():
    model, processor = tiny_audiosep_with_presence()
    separate = AudioSeparationPipeline(model=model, processor=processor, device="cpu")
    mixture = recording(8_000)
    with torch.no_grad():
        embeds = model.encode_text(**processor(text=["rain"], return_tensors="pt"))
        rows = [torch.from_numpy(mixture[None, :, start : start + 4_096]) for start in (0, 3_072, 6_144)]
        expected = torch.sigmoid(max(model(row, embeds).presence_logits[0, 0] for row in rows))
    found = separate(mixture, sampling_rate=8_000, queries="rain", residual=True)
    assert found[0]["score"] == pytest.approx(float(expected), abs=1e-6)
    share = np.square(found[1]["audio"]).sum() / np.square(mixture).sum()
    assert found[1]["score"] == pytest.approx(min(1.0, share), rel=1e-5)


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
        assert np.abs(audio(split(mixture, sampling_rate=8_000)) - expected).max() <= 1e-6
    with pytest.raises(AudioError, match="1 or 2 channels, got 6"):
        split(recording(9_000, 6), sampling_rate=8_000)


def test_a_mono_model_keeps_the_channels_apart(split: AudioSeparationPipeline):
    mixture = recording(20_000, 6)
    sources = audio(split(mixture, sampling_rate=22_050))
    for channel in range(6):
        alone = audio(split(mixture[channel : channel + 1], sampling_rate=22_050))
        assert np.abs(sources[:, channel : channel + 1] - alone).max() <= 1e-6


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
        ({"output": tmp_path, "template": "{stem}.wav"}, "{name} and {label}"),
        ({"output": {"low": tmp_path / "a.wav", "high": tmp_path / "b.wav"}}, "the recording itself"),
    ]
    for options, says in wrong:
        with pytest.raises(AudioError, match=says):
            split.separate_file(tmp_path / "a.wav", **options)
    assert (tmp_path / "a.wav").read_bytes() == before


def test_labels_cannot_lead_out_of_the_folder(separate: AudioSeparationPipeline, tmp_path: Path):
    mixture = {"array": recording(5_000), "sampling_rate": 8_000}
    written = separate.separate_file(mixture, tmp_path / "out", queries=["../../rain", "dog barking / bell", "雨"])
    assert all(source["path"].parent == tmp_path / "out" for source in written)
    assert [source["label"] for source in written] == ["../../rain", "dog barking / bell", "雨"]
    with pytest.raises(AudioError, match="one file"):
        separate.separate_file(mixture, tmp_path / "out", queries=["dog?", "dog!"])


def test_memory_of_streams_and_files_does_not_grow(split: AudioSeparationPipeline, tmp_path: Path):
    """Twenty minutes after one minute: their three sources are 230 MB."""
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
    assert peak_after(20) - first <= 30_000  # kB


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


def test_a_broken_folder_is_one_clear_error(split: AudioSeparationPipeline, tmp_path: Path):
    with pytest.raises(CheckpointError, match="no folder"):
        pipeline(model=tmp_path / "nothing")
    split.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        pipeline(model=tmp_path / "saved")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
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
