# SPDX-License-Identifier: Apache-2.0
"""Conv-TasNet's conversion: the numbers of both originals, and every layout people have on their disks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import published_conv_tasnet as published
import pytest
import torch
from promises_conversion import ConversionPromises
from published_conv_tasnet import SUMS, assert_golden
from rounding import assert_same
from safetensors.torch import load_file, save_file
from torch import Tensor

from hubsep import ConvTasNetForAudioSeparation
from hubsep.chunking import Segments, overlap_add_many
from hubsep.cli import main
from hubsep.conversion import common, conv_tasnet, convert
from hubsep.errors import ConversionError
from hubsep.metrics import separation as metrics


class TestAsteroid(ConversionPromises):
    model_type = "conv_tasnet"
    tensors = staticmethod(published.tensors)
    write = staticmethod(published.write_asteroid)
    damaged = ("masker.mask_net.1.bias", "masker.head.bias")

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls) -> dict[str, Any]:
        """What a file without `model_args` needs; the one with them says the same."""
        return {"num_blocks": 3, "sampling_rate": 16_000}


@pytest.mark.parametrize("case", published.CASES)
def test_the_command_line_gives_the_waveforms_of_the_original(case: str, tmp_path: Path):
    source = published.write(tmp_path / "pytorch_model.bin", case)
    flags = [part for name, value in published.overrides(case).items() for part in ("--set", f"{name}={value}")]
    assert main(["convert", "conv_tasnet", str(source), str(tmp_path / "out"), *flags, "--licence", "MIT"]) == 0
    model = ConvTasNetForAudioSeparation.from_pretrained(tmp_path / "out")
    assert_golden(model, load_file(published.GOLDEN / f"{case}_io.safetensors"))


def test_what_the_files_state_and_what_is_assumed(tmp_path: Path):
    def fields(source: Path, **overrides: Any) -> dict[str, Any]:
        config = convert("conv_tasnet", source, **overrides).config
        names = ("sampling_rate", "norm", "causal", "mask_activation", "encoder_activation", "pad_edges", "stride")
        return {name: getattr(config, name) for name in names}

    new = fields(published.write(tmp_path / "new.bin", "asteroid_noskip"))
    assert new == {
        "sampling_rate": 16_000, "norm": "gln", "causal": False, "mask_activation": "softmax",
        "encoder_activation": "relu", "pad_edges": False, "stride": 8,
    }  # fmt: skip
    left_out: dict[str, Any] = dict.fromkeys(("sample_rate", "conv_kernel_size", "causal", "encoder_activation"), ...)
    old = fields(published.write_asteroid(tmp_path / "old.bin", published.tensors(), **left_out))
    assert old == {**new, "sampling_rate": 8_000, "mask_activation": "relu", "encoder_activation": "linear"}
    save_file(published.tensors("asteroid_causal"), tmp_path / "bare.safetensors")
    bare = fields(tmp_path / "bare.safetensors", num_repeats=2, mask_activation="sigmoid")
    assert bare == {**old, "norm": "cln", "causal": True, "mask_activation": "sigmoid"}
    other = fields(published.write(tmp_path / "other.bin", "torchaudio"), num_blocks=3)
    assert other == {**old, "pad_edges": True}


def test_causal_models_with_global_norms_get_what_asteroid_gives_them(tmp_path: Path):
    state = published.tensors("asteroid_causal")
    source = published.write_asteroid(tmp_path / "model.bin", state, "asteroid_causal", norm_type="gLN")
    assert_golden(convert("conv_tasnet", source), load_file(published.GOLDEN / "asteroid_causal_io.safetensors"))


def test_a_folder_as_it_lies_in_the_hub(tmp_path: Path):
    published.write(tmp_path / "pytorch_model.bin", "asteroid")
    (tmp_path / "README.md").write_text("# A card")
    model = convert("conv_tasnet", tmp_path)
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match="hubsep model already"):
        convert("conv_tasnet", tmp_path / "ours")
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ConversionError, match=r"neither pytorch_model\.bin nor"):
        convert("conv_tasnet", tmp_path)


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"n_filters": 64}, "model_args has n_filters 64, but the weights have 32"),
        ({"n_blocks": 4}, "holds 6 blocks, not 2 repeats of 4"),
        ({"n_blocks": 0}, "num_blocks is 0"),
        ({"stride": 10**9}, "stride is 1000000000"),
        ({"norm_type": "BN"}, "norm is 'bn'"),
        ({"mask_act": "elu"}, "mask_activation is 'elu'"),
        ({"mask_act": ...}, "set mask_activation="),
        ({"sample_rate": "8k"}, "sampling_rate must be a whole number"),
        ({"causal": 1}, "causal is False in the weights' names"),
        ({"fb_name": "STFTFB"}, "filterbank 'STFTFB', not a free one"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(replaced: dict[str, Any], says: str, tmp_path: Path):
    source = published.write_asteroid(tmp_path / "model.bin", published.tensors(), **replaced)
    with pytest.raises(ConversionError, match=says):
        convert("conv_tasnet", source)


def test_overrides_against_the_source_are_refused(tmp_path: Path):
    source = published.write(tmp_path / "asteroid.bin", "asteroid")
    wrong: dict[str, Any] = {"num_sources": 3, "norm": "cln", "sampling_rate": 8_000, "pad_edges": True}
    for field, value in wrong.items():
        with pytest.raises(ConversionError, match=f"{field} is .* in the source; it cannot be"):
            convert("conv_tasnet", source, **{field: value})
    source = published.write(tmp_path / "torchaudio.bin", "torchaudio")
    with pytest.raises(ConversionError, match="do not tell num_blocks; set num_blocks=N"):
        convert("conv_tasnet", source)


def test_what_is_no_conv_tasnet_is_refused(tmp_path: Path):
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match=r"no Conv-TasNet, but 'encoder\.weight'"):
        convert("conv_tasnet", tmp_path / "other.safetensors")
    content = {"model_name": "DPRNNTasNet", "state_dict": published.tensors(), "model_args": {}}
    torch.save(content, tmp_path / "dprnn.bin")
    with pytest.raises(ConversionError, match="is a 'DPRNNTasNet', not a ConvTasNet"):
        convert("conv_tasnet", tmp_path / "dprnn.bin")
    torch.save({**content, "model_name": "ConvTasNet", "model_args": [1]}, tmp_path / "list.bin")
    with pytest.raises(ConversionError, match=r"model_args of 'list\.bin' is a list"):
        convert("conv_tasnet", tmp_path / "list.bin")


@pytest.mark.parametrize("index", [0, 5])
@pytest.mark.parametrize("part", ["res_conv", "skip_conv"])
def test_a_block_that_lost_a_convolution_is_refused_unless_it_was_never_used(index: int, part: str, tmp_path: Path):
    state = published.tensors()
    del state[f"masker.TCN.{index}.{part}.weight"], state[f"masker.TCN.{index}.{part}.bias"]
    source = published.write_asteroid(tmp_path / "model.bin", state)
    if (index, part) == (5, "res_conv"):
        assert_golden(convert("conv_tasnet", source), load_file(published.GOLDEN / "asteroid_io.safetensors"))
        return
    with pytest.raises(ConversionError, match=r"the source is missing|model_args has skip_chan"):
        convert("conv_tasnet", source)


MANIFESTS = {
    "conv_tasnet-torchaudio/manifest_base_libri2mix": (2, 8_000, 4_984_881),
    "conv_tasnet-asteroid/manifest_asteroid_libri1mix_enhsingle_16k": (1, 16_000, 5_000_881),
    "conv_tasnet-asteroid/manifest_asteroid_libri2mix_8k": (2, 8_000, 5_050_545),
    "conv_tasnet-asteroid/manifest_asteroid_libri2mix_16k": (2, 16_000, 5_066_929),
    "conv_tasnet-asteroid/manifest_asteroid_libri3mix_16k": (3, 16_000, 5_132_977),
}


@pytest.mark.needs_shared
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_every_tensor_of_the_published_checkpoints_has_its_place(manifest: str, shared: Path):
    listed = json.loads((shared / "golden" / f"{manifest}.json").read_text())
    tensors = {name: torch.empty(shape, device="meta") for name, (shape, _) in listed.items()}
    stored = conv_tasnet._renamed(tensors, Path("pytorch_model.bin"))
    blocks = common.count_of(stored, r"masker\.blocks\.(\d+)\.")
    config = conv_tasnet._config(conv_tasnet._facts(tensors, stored), blocks, None, {})
    with torch.device("meta"):
        model = ConvTasNetForAudioSeparation(config)
    state, wanted = conv_tasnet._state(stored, config), model.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }
    unused = 128 * 512 + 128 if manifest.startswith("conv_tasnet-asteroid") else 0  # the last residual convolution
    assert (config.num_sources, config.sampling_rate) == MANIFESTS[manifest][:2]
    assert model.num_parameters() + unused == sum(t.numel() for t in tensors.values()) == MANIFESTS[manifest][2]


@pytest.mark.needs_shared
@pytest.mark.parametrize("case", published.CASES)
def test_all_lengths_of_the_golden_cases(case: str, shared: Path, tmp_path: Path):
    model = convert("conv_tasnet", published.write(tmp_path / "model.bin", case), **published.overrides(case))
    assert_golden(model, load_file(shared / "golden" / f"conv_tasnet-{case.replace('_', '-')}" / "io.safetensors"))


def windowed(model: Any, mixture: Tensor, samples: int, window: Tensor, reorder: bool) -> Tensor:
    """asteroid's long recordings: windows from one window before the start on, put in order by their overlap."""
    hop, length = samples // 2, mixture.shape[-1]
    padded = torch.nn.functional.pad(mixture, (samples, 2 * samples))
    result, previous = torch.zeros(2, padded.shape[-1]), None
    for start in range(0, padded.shape[-1] - samples, hop):
        sources = model(padded[..., start : start + samples]).sources[0, :, 0]
        if reorder and previous is not None:
            now, before = (part - part.mean(dim=1, keepdim=True) for part in (sources[:, :hop], previous[:, hop:]))
            if (now * before).sum() < (now.flip(0) * before).sum():
                sources = sources.flip(0)
        previous = sources * window
        result[:, start : start + samples] += previous
    return result[:, samples : samples + length]


@pytest.mark.needs_shared
@torch.inference_mode()
def test_the_long_recording_of_asteroid(shared: Path):
    """Its windows give its numbers; our segments, which replace them, differ in the fade by half a sample."""
    folder = shared / "golden" / "conv_tasnet-asteroid-ola"
    model = convert("conv_tasnet", folder / "state_dict.safetensors", num_blocks=3)
    golden, samples = load_file(folder / "io.safetensors"), 800
    hann, flat = torch.hann_window(samples), torch.full((samples,), 0.5)
    ways = {"hann_reorder": (hann, True), "hann_noreorder": (hann, False), "nowindow": (flat, False)}
    for name, (window, reorder) in ways.items():
        sources = windowed(model, golden["mix"], samples, window, reorder)
        assert_same(sources, golden[f"ola_{name}"][0], **SUMS)
    padded = torch.nn.functional.pad(golden["mix"][0], (samples, 2 * samples))
    blocks = overlap_add_many([[padded]], lambda part: model(part).sources, Segments(samples, overlap=samples // 2))
    ours = torch.cat([sources for _, sources, _ in blocks], dim=-1)[:, 0, samples : samples + golden["mix"].shape[-1]]
    assert metrics.si_sdr(ours, golden["ola_hann_noreorder"][0]).min() > 50
