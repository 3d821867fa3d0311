# SPDX-License-Identifier: Apache-2.0
"""Meta-TasNet's conversion: the authors' file, the same keys as `.safetensors`, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import published_meta_tasnet as published
import pytest
import torch
from promises_conversion import ConversionPromises
from rounding import rounding
from safetensors.torch import load_file, save_file

from hubsep import MetaTasNetForAudioSeparation
from hubsep.cli import main
from hubsep.conversion import common, convert, meta_tasnet
from hubsep.errors import ConversionError


class TestMetaTasNet(ConversionPromises):
    model_type = "meta_tasnet"
    tensors = staticmethod(published.tensors)
    write = staticmethod(published.write)
    damaged = ("stages.0.decoder.bottleneck.0.weight", "stages.0.decoder.expand.weight")

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls) -> dict[str, Any]:
        """What a file without `args` needs; the one with them says the same."""
        return {"num_blocks": 2}


def test_the_command_line_gives_the_waveforms_of_the_original(tmp_path: Path):
    source = published.write(tmp_path / "best_model.pt", published.tensors())
    assert main(["convert", "meta_tasnet", str(source), str(tmp_path / "out"), "--licence", "MIT"]) == 0
    model = MetaTasNetForAudioSeparation.from_pretrained(tmp_path / "out")
    golden = load_file(published.GOLDEN / "biased_io.safetensors")
    with torch.no_grad():
        (output,) = model.separate_stages([golden["mix_stage0"][:, 0, :3_000]])
    expected = golden["est_n1_stage0"][:, :, 0].transpose(0, 1)
    # the latents, whose peak is 5, are decoded to sources
    assert (output.sources - expected).abs().max() <= rounding(5.0, terms=24 * 3, layers=30)


def test_what_the_file_states_and_what_is_assumed(tmp_path: Path):
    names = ("sampling_rate", "stride", "num_repeats", "similarity_weight", "residual_bias", "segment_samples")
    stated = published.write(
        tmp_path / "stated.pt", published.tensors(), sampling_rate=11_025, similarity_loss_weight=1.0
    )
    config = convert("meta_tasnet", stated).config
    assert [getattr(config, name) for name in names] == [11_025, 20, 2, 1.0, True, 132_300]
    save_file(published.tensors(), tmp_path / "bare.safetensors")
    config = convert("meta_tasnet", tmp_path / "bare.safetensors", num_blocks=2).config
    assert [getattr(config, name) for name in names] == [8_000, 20, 2, 2.0, True, 96_000]
    assert config.source_names == ("drums", "bass", "other", "vocals")
    with pytest.raises(ConversionError, match="do not tell num_blocks"):
        convert("meta_tasnet", tmp_path / "bare.safetensors")


def shorter(state: dict[str, torch.Tensor], lengths: int) -> dict[str, torch.Tensor]:
    """The authors' tensors without the longest of the three lengths of filters."""
    state = dict(state)
    for stage in (stage for stage in range(9) if f"stages.{stage}.encoder.filters.0.weight" in state):
        encoder, decoder = f"stages.{stage}.encoder", f"stages.{stage}.decoder"
        filters = state[f"{encoder}.bottleneck.2.weight"].shape[0]
        for index in range(lengths, 3):
            del state[f"{encoder}.filters.{index}.weight"], state[f"{decoder}.filters.{index}.weight"]
        encoded = torch.arange(state[f"{encoder}.bottleneck.0.weight"].shape[1])
        kept = (encoded >= 3 * (filters // 4)) | (encoded % 3 < lengths)  # the lengths take turns
        state[f"{encoder}.bottleneck.0.weight"] = state[f"{encoder}.bottleneck.0.weight"][:, kept]
        widths = sum(filters // 2 ** (index + 1) for index in range(lengths))
        state[f"{decoder}.bottleneck.0.weight"] = state[f"{decoder}.bottleneck.0.weight"][:, :widths]
    return state


@pytest.mark.parametrize("lengths", [1, 2])
def test_a_size_that_the_authors_code_takes_is_a_field(lengths: int, tmp_path: Path):
    silent = published.tensors()
    for name in silent:
        for index in range(lengths, 3):
            if name.endswith(f"coder.filters.{index}.weight"):
                silent[name] = torch.zeros_like(silent[name])
    whole: Any = convert("meta_tasnet", published.write(tmp_path / "whole.pt", silent))
    source = published.write(tmp_path / "shorter.pt", shorter(published.tensors(), lengths), filters=lengths)
    model: Any = convert("meta_tasnet", source, tmp_path / "out", licence="MIT")
    assert model.config.num_filter_lengths == lengths
    assert model.num_parameters() < whole.num_parameters()
    mixture = torch.randn(1, 1, 4 * model.config.minimum_samples, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sources = MetaTasNetForAudioSeparation.from_pretrained(tmp_path / "out")(mixture).sources
        expected = whole(mixture).sources
    assert (sources - expected).abs().max() <= rounding(float(expected.abs().max()), terms=24 * 3, layers=30)


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"N": 64}, "args has N 64, but the weights have 32"),
        ({"filters": 4}, "args has filters 4, but the weights have 3"),
        ({"residual_bias": False}, "args has residual_bias False"),
        ({"layers": 3}, "holds 4 blocks, not 2 repeats of 3"),
        ({"layers": 0}, "num_blocks is 0"),
        ({"W": 10**9}, "stride is 1000000000"),
        ({"sampling_rate": "8k"}, "which is no whole number"),
        ({"similarity_loss_weight": "2"}, "similarity_weight must be a number"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(replaced: dict[str, Any], says: str, tmp_path: Path):
    source = published.write(tmp_path / "model.pt", published.tensors(), **replaced)
    with pytest.raises(ConversionError, match=says):
        convert("meta_tasnet", source)


def test_overrides_against_the_source_are_refused(tmp_path: Path):
    source = published.write(tmp_path / "model.pt", published.tensors())
    wrong: dict[str, Any] = {"num_filters": 64, "stride": 10, "generated": False, "sampling_rate": 32_000}
    for field, value in wrong.items():
        with pytest.raises(ConversionError, match=f"{field} is .* in the source; it cannot be"):
            convert("meta_tasnet", source, **{field: value})
    with pytest.raises(ConversionError, match="has 4 instruments, not 2"):
        convert("meta_tasnet", source, instruments=["drums", "rest"])
    assert convert("meta_tasnet", source, instruments=list("abcd")).config.source_names == tuple("abcd")


def test_what_is_no_meta_tasnet_is_refused(tmp_path: Path):
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match=r"no Meta-TasNet, but 'encoder\.weight'"):
        convert("meta_tasnet", tmp_path / "other.safetensors")
    state = published.tensors()
    state["stages.0.encoder.spectrogram.window"] = torch.ones(1_024)
    with pytest.raises(ConversionError, match="no periodic Hann window"):
        convert("meta_tasnet", published.write(tmp_path / "window.pt", state))
    torch.save({"state_dict": published.tensors(), "args": [1]}, tmp_path / "list.pt")
    with pytest.raises(ConversionError, match=r"args of 'list\.pt' is a list"):
        convert("meta_tasnet", tmp_path / "list.pt")


@pytest.mark.parametrize("index", [0, 3])
def test_a_block_that_lost_its_residual_product_is_refused_unless_it_was_never_used(index: int, tmp_path: Path):
    lost = f"stages.0.mask.tcn.{index}.res_out."
    state = {name: tensor for name, tensor in published.tensors().items() if not name.startswith(lost)}
    source = published.write(tmp_path / "model.pt", state)
    if index == 3:
        assert convert("meta_tasnet", source).config.num_blocks == 2
        return
    with pytest.raises(ConversionError, match=r"missing.*blocks\.0\.residual"):
        convert("meta_tasnet", source)


@pytest.mark.needs_shared
def test_every_tensor_of_the_published_checkpoint_has_its_place(shared: Path):
    listed = json.loads((shared / "golden" / "meta_tasnet" / "manifest_published.json").read_text())
    tensors = {name: torch.empty(shape, device="meta") for name, (shape, _) in listed.items()}
    stored = common.rename(tensors, meta_tasnet.TABLE)
    windows = [name for name in stored if name.endswith("window")]
    stored.update({name: torch.hann_window(stored[name].numel()) for name in windows})
    blocks = common.count_of(stored, r"stages\.0\.masker\.blocks\.(\d+)\.")
    config = meta_tasnet._config(meta_tasnet._facts(stored), blocks, {}, {})
    with torch.device("meta"):
        model = MetaTasNetForAudioSeparation(config)
    state, wanted = meta_tasnet._state(stored, config), model.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }
    fresh = type(config)()
    fields = (
        "num_filters",
        "stride",
        "num_blocks",
        "sampling_rate",
        "n_fft",
        "hop_length",
        "num_mels",
        "hidden_channels",
    )
    assert [getattr(config, name) for name in fields] == [getattr(fresh, name) for name in fields]
    total = sum(tensor.numel() for tensor in tensors.values())
    unused = 3 * ((8 + 1) * 5 + 160 * 160 * 6)
    statistics = sum(2 * (512 * 2**stage + 1) + 1_024 * 2**stage for stage in range(3))
    assert model.num_parameters() + unused + statistics == total == 45_545_602
