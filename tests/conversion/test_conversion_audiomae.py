# SPDX-License-Identifier: Apache-2.0
"""AudioMAE's conversion: its own checkpoint, the one inside AudioLDM 2's, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import published_audiomae as published
import pytest
import torch
from promises_conversion import ConversionPromises
from safetensors.torch import save_file
from tiny_audiomae import spectrograms, tiny_pretraining
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from hubsep.cli import main
from hubsep.conversion import audiomae, common, convert
from hubsep.errors import ConversionError
from hubsep.models.audiomae.configuration_audiomae import AudioMAEConfig
from hubsep.models.audiomae.modeling_audiomae import AudioMAEForPreTraining, AudioMAEModel


class TestAudioMAE(ConversionPromises):
    model_type = "audiomae"
    tensors = staticmethod(published.tensors)
    write = staticmethod(published.write)
    damaged = ("decoder_norm.weight", "decoder.norm.weight")

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls) -> dict[str, Any]:
        return published.TOLD

    def test_the_folder_loads_and_holds_the_converted_weights(
        self, source: Path, converted: Path, overrides: dict[str, Any]
    ):
        expected = convert("audiomae", source, **overrides).state_dict()
        loaded = AutoModelForPreTraining.from_pretrained(converted)
        assert type(loaded) is AudioMAEForPreTraining
        assert loaded.state_dict().keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert type(AutoModel.from_pretrained(converted)) is AudioMAEModel


def same_weights(model: Any, expected: Any) -> None:
    assert type(model) is type(expected)
    assert model.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def flags(told: dict[str, Any]) -> list[str]:
    return [part for name, value in told.items() for part in ("--set", f"{name}={value}")]


def test_the_command_line_converts_the_encoder_inside_audioldm2(tmp_path: Path):
    source = published.write_inside(tmp_path / "audioldm2-full.pth", published.tensors())
    command = ["convert", "audiomae", str(source), str(tmp_path / "out"), *flags(published.TOLD)]
    assert main([*command, "--licence", "CC-BY-NC-SA-4.0"]) == 0
    model = AutoModel.from_pretrained(tmp_path / "out")
    same_weights(model, tiny_audiomae_of_pretraining())
    with torch.no_grad():
        expected = tiny_audiomae_of_pretraining().loa(spectrograms(), 4, 4)
        assert torch.equal(model.loa(spectrograms(), 4, 4), expected)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    assert (extractor.num_frames, extractor.num_mel_bins, extractor.sampling_rate) == (96, 64, 16_000)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-nc-sa-4.0\npipeline_tag: feature-extraction\ntags:\n- audio\n- audiomae\n" in card


def tiny_audiomae_of_pretraining() -> AudioMAEModel:
    return tiny_pretraining().audiomae.eval()


@pytest.mark.parametrize("decoder_type", ["global", "shifted_window"])
def test_both_decoders_are_told_apart(decoder_type: str, tmp_path: Path):
    source = published.write(tmp_path / "pretrained.pth", published.tensors(decoder_type=decoder_type))
    told = {**published.TOLD, **({"decoder_num_attention_heads": 3} if decoder_type == "global" else {})}
    same_weights(convert("audiomae", source, **told), tiny_pretraining(decoder_type=decoder_type))
    same_weights(convert("audiomae", source, **published.TOLD, encoder_only=True), tiny_audiomae_of_pretraining())
    bare = {name: tensor for name, tensor in published.tensors().items() if not name.startswith(("decoder_", "mask"))}
    save_file(bare, tmp_path / "bare.safetensors")
    same_weights(convert("audiomae", tmp_path / "bare.safetensors", **published.TOLD), tiny_audiomae_of_pretraining())


def test_what_the_run_was_told_is_kept(tmp_path: Path):
    settings = {"norm_pix_loss": False, "mask_ratio": 0.7, "mask_t_prob": 0.3, "mask_f_prob": 0.2}
    source = published.write(tmp_path / "pretrained.pth", published.tensors(), **settings)
    config = convert("audiomae", source, **published.TOLD).config
    stated = (config.normalize_targets, config.mask_ratio, config.mask_time_ratio, config.mask_frequency_ratio)
    assert stated == (False, 0.7, 0.3, 0.2)
    with pytest.raises(ConversionError, match=r"mask_ratio is 0\.7 in the source; it cannot be 0\.5"):
        convert("audiomae", source, **published.TOLD, mask_ratio=0.5)
    wrong = published.write(tmp_path / "wrong.pth", published.tensors(), mask_ratio="0.8")
    with pytest.raises(ConversionError, match="mask_ratio must be a number"):
        convert("audiomae", wrong, **published.TOLD)


@pytest.mark.parametrize("left_out", ["num_attention_heads", "num_averaged_layers"])
def test_what_no_shape_tells_must_be_set(left_out: str, tmp_path: Path):
    source = published.write(tmp_path / "pretrained.pth", published.tensors())
    told = {name: value for name, value in published.TOLD.items() if name != left_out}
    with pytest.raises(ConversionError, match=f"no weight tells {left_out}.*set {left_out}=N"):
        convert("audiomae", source, **told)
    with pytest.raises(ConversionError, match=r"places for 96 patches, which num_mel_bins=4096 do not divide"):
        convert("audiomae", source, **{**published.TOLD, "num_mel_bins": 4_096})
    with pytest.raises(ConversionError, match="hidden_size is 16 in the source; it cannot be 768"):
        convert("audiomae", source, **published.TOLD, hidden_size=768)
    with pytest.raises(ConversionError, match="encoder_only must be true or false"):
        convert("audiomae", source, **published.TOLD, encoder_only="yes")


def test_what_is_no_audiomae_is_refused(tmp_path: Path):
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match=r"no AudioMAE, but 'encoder\.weight'"):
        convert("audiomae", tmp_path / "other.safetensors")
    published.write_inside(tmp_path / "none.pth", {})
    with pytest.raises(ConversionError, match="holds no AudioMAE"):
        convert("audiomae", tmp_path / "none.pth")
    twice: dict[str, Tensor] = {}
    for name, tensor in published.tensors().items():
        twice |= {name: tensor, f"{published.PREFIX.replace('.2.', '.3.')}{name}": tensor}
    state = {name if name.startswith("cond_") else f"{published.PREFIX}{name}": part for name, part in twice.items()}
    torch.save({"state_dict": state}, tmp_path / "twice.pth")
    with pytest.raises(ConversionError, match="holds 2 AudioMAEs"):
        convert("audiomae", tmp_path / "twice.pth")
    state = {**published.tensors(), "head.weight": torch.zeros(3, 3)}
    with pytest.raises(ConversionError, match=r"does not know: 'head\.weight'"):
        convert("audiomae", published.write_inside(tmp_path / "head.pth", state), **published.TOLD)
    state = published.tensors()
    del state["decoder_blocks.0.attn.tau"]
    with pytest.raises(ConversionError, match=r"missing 'decoder_blocks\.0\.attn\.tau'"):
        convert("audiomae", published.write(tmp_path / "tau.pth", state), **published.TOLD)
    torch.save({"model": published.tensors(), "args": [1]}, tmp_path / "list.pth")
    with pytest.raises(ConversionError, match=r"args of 'list\.pth' is a list"):
        convert("audiomae", tmp_path / "list.pth")


@pytest.mark.needs_shared
def test_every_tensor_of_the_published_checkpoints_has_its_place(shared: Path):
    folder = shared / "golden" / "audioldm2" / "manifests"
    listed = json.loads((folder / "audiomae_vitb_manifest.json").read_text())
    other = json.loads((folder / "audiomae_vitb_swin_decoder_manifest.json").read_text())
    check_manifest(listed["encoder"], AudioMAEModel, listed["n_encoder_params"])
    check_manifest({**listed["encoder"], **listed["decoder_global"]}, AudioMAEForPreTraining, listed["n_params"])
    check_manifest(other["keys"], AudioMAEForPreTraining, 136_992_768)


def check_manifest(listed: dict[str, Any], model_class: Any, parameters: int) -> None:
    """Names and shapes of a manifest become those of the model with the defaults."""
    tensors = {name: torch.empty(shape, device="meta") for name, (shape, _) in listed.items()}
    assert sum(tensor.numel() for tensor in tensors.values()) == parameters
    encoder_only = model_class is AudioMAEModel
    config = audiomae._config(tensors, {}, {}, encoder_only)
    windows = config.decoder_type == "shifted_window"
    assert encoder_only or config.decoder_num_layers == (16 if windows else 8)
    fields = {"decoder_type": config.decoder_type, "decoder_num_layers": config.decoder_num_layers}
    assert config.to_dict() == AudioMAEConfig(**fields).to_dict()
    with torch.device("meta"):
        model = model_class(config)
    state = common.rename(tensors, audiomae.WITHOUT_DECODER if encoder_only else audiomae.WITH_DECODER)
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in model.state_dict().items()}
