# SPDX-License-Identifier: Apache-2.0
"""AudioSep's conversion: the numbers of the original, and every layout people have on their disks.

The golden vectors come from the original's own code; `golden/audiosep/README.md` says how.
"""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published_audiosep as published
import pytest
import torch
from promises_conversion import ConversionPromises
from published_audiosep import assert_golden, separate
from rounding import assert_same
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoProcessor, ClapModel

from hubsep import AudioSepConfig, AudioSepForAudioSeparation
from hubsep.chunking import Segments, overlap_add_many
from hubsep.conversion import audiosep, clap, common, convert
from hubsep.errors import ConversionError, QueryError
from hubsep.metrics import separation as metrics


GOLDEN = published.GOLDEN
SAMPLING_RATE = 32_000


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(published.write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AudioSepForAudioSeparation:
    source = published.write_lightning(tmp_path_factory.mktemp("model") / "tiny.ckpt", published.whole())
    converted = convert("audiosep", source, **published.OVERRIDES)
    assert isinstance(converted, AudioSepForAudioSeparation)
    return converted


class TestPromises(ConversionPromises):
    model_type = "audiosep"
    tensors = staticmethod(published.whole)
    write = staticmethod(published.write_lightning)
    damaged = ("ss_model.base.after_conv.weight", "unet.head.weight")

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, tokenizer: str) -> dict[str, Any]:
        return {**published.OVERRIDES, "tokenizer": tokenizer}


def test_separator_gives_the_waveform_of_the_original(model: AudioSepForAudioSeparation):
    golden = load_file(GOLDEN / "io.safetensors")
    assert_golden(separate(model, golden["mixture"], golden["condition"]), golden["waveform"])


@torch.inference_mode()
def test_text_tower_gives_the_embeddings_of_the_original(model: AudioSepForAudioSeparation):
    golden = load_file(GOLDEN / "clap_text_io.safetensors")
    tokens = golden["input_ids"], golden["attention_mask"]
    encoded = model.query_encoder.text_model(tokens[0], attention_mask=tokens[1]).pooler_output
    projected = model.query_encoder.text_projection(encoded)
    reading = {"terms": 64, "layers": 16}
    assert_same(encoded, golden["pooler_output"], **reading)
    assert_same(projected, golden["projected"], **reading)
    assert_same(model.encode_text(*tokens), golden["text_embed"], **reading)
    longest = int(tokens[1].sum(dim=1).max())
    padded_less = model.encode_text(*(tensor[:, :longest] for tensor in tokens))
    assert_same(padded_less, golden["text_embed"], **reading)


@pytest.mark.parametrize("case", json.loads((GOLDEN / "metrics_meta.json").read_text()), ids=lambda case: case["kind"])
def test_metrics_are_those_of_the_original(case: dict[str, Any]):
    golden = load_file(GOLDEN / "metrics_io.safetensors")
    estimate, reference, mixture = (golden[f"{case['i']}.{name}"] for name in ("est", "ref", "mix"))
    measured = {
        "sdr": metrics.sdr(estimate, reference),
        "sdr_mix": metrics.sdr(mixture, reference),
        "sdri": metrics.sdr_improvement(estimate, reference, mixture),
        "si_sdr": metrics.si_sdr(estimate, reference),
    }
    for name, value in measured.items():
        assert value.item() == pytest.approx(case[name], abs=1e-3), name  # dB; sums of squares are off by 1e-5 at most


def chunked(model: AudioSepForAudioSeparation, golden: dict[str, Tensor], case: str, context: float, hop: float):
    """The original's chunks: a window every `hop` seconds, `context` seconds of it thrown away at both ends."""
    outer = round(context * SAMPLING_RATE)
    segments = Segments(samples=round(hop * SAMPLING_RATE) + 2 * outer, overlap=2 * outer, context=outer)

    def process(mixtures: Tensor) -> Tensor:
        return separate(model, mixtures, golden["condition"])[:, None]

    blocks = overlap_add_many([[golden[f"{case}.mixture"][0]]], process, segments)
    return torch.cat([sources for _, sources, _ in blocks], dim=-1)[0]


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("prefix", "case", "context", "hop", "overrides"),
    [("", "short", 0.25, 0.75, {"hop_length": 40}), ("fullstft_", "default", 1.0, 3.0, {})],
)
def test_chunks_are_those_of_the_original(
    prefix: str, case: str, context: float, hop: float, overrides: dict[str, Any], shared: Path
):
    folder = shared / "golden" / "audiosep"
    model = convert("audiosep", folder / f"{prefix}state_dict.safetensors", **overrides)
    golden = load_file(folder / f"{prefix}chunk_io.safetensors")
    assert_golden(chunked(model, golden, case, context, hop), golden[f"{case}.output"])


@pytest.mark.needs_shared
def test_a_recording_shorter_than_a_window_is_not_silenced(model: AudioSepForAudioSeparation, shared: Path):
    """Where the original returns zeros, the whole recording is one segment."""
    golden = load_file(shared / "golden" / "audiosep" / "chunk_io.safetensors")
    separated = chunked(model, golden, "too_short", 0.25, 0.75)
    assert golden["too_short.output"].abs().max() == 0
    assert torch.equal(separated, separate(model, golden["too_short.mixture"], golden["condition"])[0])
    assert separated.abs().max() > 0.1


@pytest.mark.needs_shared
def test_separator_at_the_published_fourier_size(shared: Path):
    folder = shared / "golden" / "audiosep"
    model = convert("audiosep", folder / "fullstft_state_dict.safetensors")
    golden = load_file(folder / "fullstft_io.safetensors")
    assert_golden(separate(model, golden["mixture"], golden["condition"]), golden["waveform"])


@pytest.fixture
def manifest(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden" / "audiosep" / "manifest_full.json").read_text())


@pytest.mark.slow
@pytest.mark.needs_shared
def test_separator_at_the_published_size(shared: Path, manifest: dict[str, Any], tmp_path: Path):
    folder = shared / "golden" / "audiosep"
    spec = importlib.util.spec_from_file_location("hash_weights", folder / "hash_weights.py")
    assert spec is not None
    assert spec.loader is not None
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    gain = json.loads((folder / "fullsize_meta.json").read_text())["after_gain"]
    arrays = weights.state_dict(manifest["resunet30"]["state_dict"], gain)
    save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "full.safetensors")
    model = convert("audiosep", tmp_path / "full.safetensors")
    assert model.num_parameters() == 26_447_941 - 824_000  # trainable ones of the original, less those it never uses
    golden = load_file(folder / "fullsize_io.safetensors")
    assert_golden(separate(model, golden["mixture"], golden["condition"]), golden["waveform"])


@pytest.mark.needs_shared
def test_every_tensor_of_the_published_checkpoint_has_its_place(manifest: dict[str, Any]):
    listed = manifest["audiosep_lightning_module"]["state_dict"]
    listed |= manifest["audiosep_lightning_module"]["may_also_contain"]
    kinds = {"float32": torch.float32, "int64": torch.int64}
    tensors = {name: torch.empty(shape, dtype=kinds[kind], device="meta") for name, (shape, kind) in listed.items()}
    separator, encoder = audiosep._parts(tensors, Path("audiosep_base_4M_steps.ckpt"))
    config = audiosep._config(separator, encoder, {})
    for field in ("n_fft", "hop_length", "num_channels", "stem_channels", "encoder_channels", "encoder_strides"):
        got, default = getattr(config, field), getattr(AudioSepConfig(), field)
        assert np.array_equal(got, default), f"{field} is not the published default"
    queries: Any = config.query_config
    sound, text = queries.audio_config, queries.text_config
    assert (sound.hidden_size, sound.patch_embeds_hidden_size) == (1024, 128)
    assert (list(sound.depths), list(sound.num_attention_heads)) == ([2, 2, 12, 2], [4, 8, 16, 32])
    assert (sound.window_size, sound.mlp_ratio, sound.num_mel_bins) == (8, 4.0, 64)
    assert (text.num_attention_heads, text.num_hidden_layers, text.layer_norm_eps) == (12, 12, 1e-5)
    state = common.rename(separator, audiosep.KEYS)
    state |= {
        f"query_encoder.{name}": tensor for name, tensor in clap.clap_state(encoder, config.query_config).items()
    }
    with torch.device("meta"):
        wanted = AudioSepForAudioSeparation(config).state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }


def test_audio_tower_gets_query_key_and_value_from_one_tensor(model: AudioSepForAudioSeparation):
    source, attention = published.clap(), model.query_encoder.audio_model.audio_encoder.layers[0].blocks[1].attention
    packed = source["audio_branch.layers.0.blocks.1.attn.qkv.weight"].chunk(3)
    parts = attention.self.query, attention.self.key, attention.self.value
    for part, expected in zip(parts, packed, strict=True):
        assert torch.equal(part.weight, expected)
    assert torch.equal(attention.output.dense.weight, source["audio_branch.layers.0.blocks.1.attn.proj.weight"])


@pytest.mark.slow
@torch.inference_mode()
def test_processor_and_model_take_words_and_sounds_to_one_space(tmp_path: Path, tokenizer: str):
    source = published.write_lightning(tmp_path / "tiny.ckpt", published.whole())
    convert("audiosep", source, tmp_path / "out", licence="MIT", tokenizer=tokenizer, **published.OVERRIDES)
    model = AudioSepForAudioSeparation.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    extractor = processor.feature_extractor
    assert (extractor.frequency_min, extractor.padding, extractor.truncation) == (50, "repeatpad", "rand_trunc")
    words = model.encode_text(**processor(text=["dog barking", "rain"]))
    sound = processor(audio=np.random.default_rng(0).normal(size=48_000).astype(np.float32), sampling_rate=48_000)
    sounds = model.encode_audio(sound["input_features"], sound["is_longer"])
    assert words.shape == (2, published.EMBEDDING)
    assert sounds.shape == (1, published.EMBEDDING)
    for embeddings in (words, sounds):
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(len(embeddings)))
    assert (words[0] - words[1]).abs().max() > 1e-3


@pytest.mark.slow
def test_hub_export_is_converted(model: AudioSepForAudioSeparation, tmp_path: Path):
    for name, save in (("model.safetensors", save_file), ("pytorch_model.bin", torch.save)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        save(published.whole(), folder / name)
        assert_same_weights(convert("audiosep", folder, **published.OVERRIDES), model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversionError, match="holds neither"):
        convert("audiosep", tmp_path / "empty")


def assert_same_weights(converted: torch.nn.Module, expected: torch.nn.Module) -> None:
    state = converted.state_dict()
    assert state.keys() == expected.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.state_dict().items())


def test_separator_alone_takes_its_clap_from_a_second_file(
    model: AudioSepForAudioSeparation, tmp_path: Path, tokenizer: str
):
    save_file(published.separator(), tmp_path / "separator.safetensors")
    laion = published.write_laion(tmp_path / "clap.pt", published.clap())
    source, overrides = tmp_path / "separator.safetensors", published.OVERRIDES
    assert_same_weights(convert("audiosep", source, clap=str(laion), **overrides), model)
    with pytest.raises(ConversionError, match="clap=FILE"):
        convert("audiosep", source, tmp_path / "out", licence="MIT", tokenizer=tokenizer, **overrides)
    alone = convert("audiosep", source, **overrides)
    with pytest.raises(QueryError, match="clap=FILE"):
        alone.encode_text(torch.zeros(1, 3, dtype=torch.long))
    whole = published.write_lightning(tmp_path / "whole.ckpt", published.whole())
    with pytest.raises(ConversionError, match="holds its own CLAP"):
        convert("audiosep", whole, clap=str(laion), **overrides)


def test_clap_passed_as_the_separator_is_recognised(tmp_path: Path):
    laion = published.write_laion(tmp_path / "music_speech_audioset_epoch_15_esc_89.98.pt", published.clap())
    with pytest.raises(ConversionError, match=r"89\.98\.pt' is a CLAP checkpoint.*audiosep_base_4M_steps\.ckpt"):
        convert("audiosep", laion)


def test_clap_alone_becomes_a_clap_folder(model: AudioSepForAudioSeparation, tmp_path: Path):
    laion = published.write_laion(tmp_path / "clap.pt", published.clap())
    overrides = published.OVERRIDES["query_config"]
    clap.convert_clap(laion, tmp_path / "out", licence="CC0-1.0", **overrides)
    assert_same_weights(ClapModel.from_pretrained(tmp_path / "out"), model.query_encoder)
    with pytest.raises(ConversionError, match="licence"):
        clap.convert_clap(laion, tmp_path / "second", **overrides)


def rewritten(path: Path, change: Callable[[bytes], bytes], compression: int) -> Path:
    """A copy of a PyTorch archive with another pickle in it."""
    copy = path.with_name("rewritten.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w", compression) as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, change(content) if entry.filename.endswith("data.pkl") else content)
    return copy


def test_numpy_scalars_are_read_under_the_names_of_both_numpys(tmp_path: Path):
    laion = published.write_laion(tmp_path / "clap.pt", published.clap())
    names = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    (present,) = (name for name in names if name in zipfile.ZipFile(laion).read("clap/data.pkl"))
    for name in names:
        copy = rewritten(laion, lambda content, name=name: content.replace(present, name), zipfile.ZIP_STORED)  # type: ignore[misc]
        assert common.read_tensors(copy).keys() == {f"module.{name}" for name in published.clap()}


def test_a_compressed_archive_is_refused(tmp_path: Path):
    laion = published.write_laion(tmp_path / "clap.pt", published.clap())
    with pytest.raises(ConversionError, match="compressed"):
        common.read_tensors(rewritten(laion, bytes, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("name", published.kernels())
def test_kernels_that_are_no_fourier_transform_are_not_dropped(name: str, tmp_path: Path):
    tensors = published.separator()
    tensors[name] = tensors[name] * 1.001
    save_file(tensors, tmp_path / "changed.safetensors")
    with pytest.raises(ConversionError, match=name):
        convert("audiosep", tmp_path / "changed.safetensors", hop_length=40)


@pytest.mark.needs_shared
def test_kernels_of_the_original_are_recognised(model: AudioSepForAudioSeparation, shared: Path):
    source = shared / "golden" / "audiosep" / "state_dict.safetensors"
    assert any(name.startswith("base.stft.") for name in load_file(source))
    converted = convert("audiosep", source, hop_length=40)
    assert torch.equal(converted.unet.head.weight, model.unet.head.weight)


UNUSABLE = {
    "the hop is in no weight": ({"query_config": published.OVERRIDES["query_config"]}, "set hop_length"),
    "text heads are not RoBERTa's": ({"hop_length": 40}, "num_attention_heads"),
    "a field that contradicts the shapes": (
        {**published.OVERRIDES, "encoder_channels": [4, 6, 8, 12, 16, 17]},
        r"16, 16\] in the weights",
    ),
    "a field out of its bounds": ({**published.OVERRIDES, "hop_length": 4_000}, "hop_length"),
    "a field of the wrong type": ({**published.OVERRIDES, "hop_length": "40"}, "hop_length"),
    "part of a tower that is not there": ({**published.OVERRIDES, "query_config": {"towers": {}}}, "text_config"),
    "no table": ({**published.OVERRIDES, "query_config": "clap"}, "query_config"),
}


@pytest.mark.parametrize(("overrides", "named"), UNUSABLE.values(), ids=UNUSABLE)
def test_overrides_that_make_no_model_are_refused(overrides: dict[str, Any], named: str, tmp_path: Path):
    source = published.write_lightning(tmp_path / "tiny.ckpt", published.whole())
    with pytest.raises(ConversionError, match=named):
        convert("audiosep", source, **overrides)


def test_overrides_reach_the_configuration(tmp_path: Path):
    source = published.write_lightning(tmp_path / "tiny.ckpt", published.whole())
    model = convert("audiosep", source, **published.OVERRIDES, sampling_rate=16_000, known_sounds=["rain"])
    assert model.config.sampling_rate == 16_000
    assert model.config.known_sounds == ["rain"]
    assert model.config.n_fft == published.N_FFT


def test_a_separator_of_another_clap_is_refused(tmp_path: Path):
    tensors = published.whole()
    tensors = {
        name: tensor[:, :30].contiguous() if name.startswith("ss_model.film.") and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }
    source = published.write_lightning(tmp_path / "tiny.ckpt", tensors)
    with pytest.raises(ConversionError, match="queries of 30 numbers, this CLAP makes 32"):
        convert("audiosep", source, **published.OVERRIDES)


def test_half_precision_is_stored_as_float32(model: AudioSepForAudioSeparation, tmp_path: Path):
    halves = {n: t.half() if t.is_floating_point() and "stft" not in n else t for n, t in published.whole().items()}
    source = published.write_lightning(tmp_path / "half.ckpt", halves)
    converted = convert("audiosep", source, **published.OVERRIDES)
    assert converted.unet.head.weight.dtype == torch.float32
    torch.testing.assert_close(converted.unet.head.weight, model.unet.head.weight, rtol=1e-3, atol=1e-4)


def test_what_is_no_audiosep_is_refused(tmp_path: Path):
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match=r"no AudioSep separator, but 'encoder\.weight'"):
        convert("audiosep", tmp_path / "other.safetensors")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(ConversionError, match="holds a list"):
        convert("audiosep", tmp_path / "list.pt")
    with pytest.raises(ConversionError, match="'no_such_system' cannot be converted"):
        convert("no_such_system", tmp_path / "list.pt")  # type: ignore[call-overload]


def test_a_tokenizer_that_cannot_be_had_or_does_not_belong(tmp_path: Path, tokenizer: str):
    source = published.write_lightning(tmp_path / "tiny.ckpt", published.whole())
    arguments: dict[str, Any] = {"licence": "MIT", **published.OVERRIDES}
    with pytest.raises(ConversionError, match="set tokenizer="):
        convert("audiosep", source, tmp_path / "out", tokenizer=str(tmp_path / "absent"), **arguments)
    content = json.loads((Path(tokenizer) / "tokenizer_config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_bytes((Path(tokenizer) / "tokenizer.json").read_bytes())
    (other / "tokenizer_config.json").write_text(json.dumps({**content, "pad_token": "</s>"}))
    with pytest.raises(ConversionError, match="do not belong together"):
        convert("audiosep", source, tmp_path / "out", tokenizer=str(other), **arguments)
    assert not (tmp_path / "out").exists()


def test_a_converted_folder_is_no_source(tmp_path: Path, model: AudioSepForAudioSeparation):
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match="hubsep model already"):
        convert("audiosep", tmp_path / "ours")


def test_the_command_line_converts(tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]):
    from hubsep.cli import main

    source = published.write_lightning(tmp_path / "tiny.ckpt", published.whole())
    settings = {**published.OVERRIDES, "tokenizer": tokenizer}
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    command = ["convert", "audiosep", str(source), str(tmp_path / "out"), *flags]
    assert main([*command, "--licence", "mit"]) == 0
    assert AudioSepForAudioSeparation.from_pretrained(tmp_path / "out").config.hop_length == 40
    assert main(command) == 2  # the licence is missing
    assert main([*command, "--licence", "mit"]) == 2  # the folder is there
    source.write_bytes(b"")
    assert main([*command, "--licence", "mit", "--overwrite"]) == 1
    assert "error: 'tiny.ckpt' was not opened" in capsys.readouterr().err
