# SPDX-License-Identifier: Apache-2.0
"""AudioMAE against independent ways to the same numbers, its two decoders and maskings, and the language of audio."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from published_audiomae import assert_language, assert_patches
from rounding import assert_same, rounding
from safetensors.torch import load_file
from tiny import recompute
from tiny_audiomae import BINS, FRAMES, PATCH, spectrograms, tiny_audiomae, tiny_config, tiny_pretraining
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from hubsep.conversion import convert
from hubsep.errors import AudioError, CheckpointError, DataError, QueryError
from hubsep.models.audiomae.configuration_audiomae import AudioMAEConfig
from hubsep.models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor
from hubsep.models.audiomae.modeling_audiomae import (
    AudioMAEForPreTraining,
    AudioMAEModel,
    WindowLayer,
    patchify,
    pool_patches,
    position_table,
    random_masking,
    reconstruction_loss,
    time_frequency_masking,
    unpatchify,
)


STEPS, BANDS = FRAMES // PATCH, BINS // PATCH
SUMS = {"terms": 96, "layers": 20}  # patches that attention adds up; two layers of encoder and decoder


@torch.no_grad()
def test_the_encoder_is_a_stack_of_pre_norm_transformer_layers():
    model, x = tiny_audiomae(), spectrograms()
    hidden = F.conv2d(x, model.embeddings.patches.weight, model.embeddings.patches.bias, stride=PATCH)
    hidden = hidden.flatten(2).transpose(1, 2) + model.embeddings.positions[:, 1:]
    hidden = torch.cat([model.embeddings.class_token.expand(2, -1, -1), hidden], dim=1)
    outputs = []
    layers: Any = model.layers
    for layer in layers:
        theirs = nn.TransformerEncoderLayer(
            16, 2, 24, 0.0, F.gelu, layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        state = {
            "self_attn.in_proj": layer.attention.qkv, "self_attn.out_proj": layer.attention.output,
            "linear1": layer.linear1, "linear2": layer.linear2, "norm1": layer.attention_norm,
            "norm2": layer.ffn_norm,
        }  # fmt: skip
        leaves = {f"{n}.{leaf}": getattr(m, leaf) for n, m in state.items() for leaf in ("weight", "bias")}
        theirs.load_state_dict({name.replace("in_proj.", "in_proj_"): tensor for name, tensor in leaves.items()})
        hidden = theirs.eval()(hidden)
        outputs.append(model.norm(hidden))
    output = model(x).last_hidden_state
    assert_same(output, (outputs[-1] + outputs[-2]) / 2, **SUMS)
    kept = torch.arange(STEPS * BANDS).expand(2, -1)
    assert_same(model(x, kept=kept).last_hidden_state, outputs[-1], **SUMS)


def test_positions_are_laid_out_as_in_the_published_weights():
    table = position_table((12, 8), 16)
    assert table.shape == (1, 97, 16)
    assert not table[0, 0].any()
    for row in (0, 1, 11, 12, 50, 95):
        fast, slow = row % 12, row // 12  # as if frequency were the slow axis
        angles = [place / 10_000 ** (i / 4) for place in (fast, slow) for i in range(4)]
        expected = [f(a) for part in (angles[:4], angles[4:]) for f in (math.sin, math.cos) for a in part]
        # an angle of up to 12 is rounded before its sine is taken
        torch.testing.assert_close(table[0, row + 1], torch.tensor(expected), atol=rounding(12.0, terms=1), rtol=0)


@torch.no_grad()
def test_a_shorter_spectrogram_takes_the_first_positions():
    embeddings, x = tiny_audiomae().embeddings, spectrograms()
    assert_same(embeddings(x[:, :, :40]), embeddings(x)[:, : 1 + 5 * BANDS], terms=64)
    assert tiny_audiomae().loa(x[:, :, :64]).shape == (2, 1, 16)


@torch.no_grad()
@pytest.mark.parametrize(("time_pool", "frequency_pool"), [(4, 8), (1, 1), (3, 2), (12, 8)])
def test_the_language_of_audio_is_pooled_patches(time_pool: int, frequency_pool: int):
    model, x = tiny_audiomae(), spectrograms()
    hidden = model(x).last_hidden_state[:, 1:].unflatten(1, (STEPS, BANDS))
    expected = []
    for t in range(0, STEPS, time_pool):
        for f in range(0, BANDS, frequency_pool):
            part = hidden[:, t : t + time_pool, f : f + frequency_pool].flatten(1, 2)
            expected.append((part.mean(dim=1) + part.amax(dim=1)) / 2)
    loa = model.loa(x, time_pool, frequency_pool)
    assert_same(loa, torch.stack(expected, dim=1), **SUMS)


@pytest.mark.parametrize(("time_pool", "frequency_pool"), [(5, 1), (1, 3), (0, 1), (24, 8)])
def test_pools_that_do_not_divide_are_refused(time_pool: int, frequency_pool: int):
    with pytest.raises(AudioError, match=f"12 x 8 patches cannot be pooled by {time_pool} x {frequency_pool}"):
        pool_patches(torch.zeros(1, 96, 4), BANDS, time_pool, frequency_pool)


def test_the_pool_that_makes_so_many_tokens():
    published, tiny = AudioMAEConfig(), tiny_config()
    assert [published.loa_pool(tokens) for tokens in (None, 8, 512)] == [(8, 8), (8, 8), (1, 1)]
    assert [tiny.loa_pool(tokens) for tokens in (None, 24, 96)] == [(8, 8), (2, 2), (1, 1)]
    small = AudioMAEConfig(num_frames=64, num_mel_bins=32, decoder_type="global")
    assert small.loa_pool() == (4, 2)  # no more than there are
    with pytest.raises(QueryError, match="64 x 8 patches cannot be pooled to 9 tokens"):
        published.loa_pool(9)


def test_the_extractor_of_a_configuration_makes_what_its_model_reads():
    config = tiny_config(sampling_rate=8_000)
    extractor = AudioMAEFeatureExtractor.of(config)
    features = extractor(torch.randn(2_000), 8_000)["input_features"]
    assert features.shape == (1, 1, config.num_frames, config.num_mel_bins)


def dense(layer: WindowLayer, x: Tensor) -> Tensor:
    """What a window layer's attention gives, pair by pair of patches; x: (batch, 12 x 8 patches, size)."""
    attention, window, shift = layer.attention, layer.window, layer.shift
    query, key, value = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = F.cosine_similarity(query[:, :, :, None], key[:, :, None], dim=-1)
    scores = scores / attention.temperature.clamp_min(0.01)[:, None, None]
    places = [((t - shift) % STEPS, f, t < shift) for t in range(STEPS) for f in range(BANDS)]
    added = torch.full((attention.num_heads, len(places), len(places)), -torch.inf)
    for i, (t, f, wrapped) in enumerate(places):
        for j, (other_t, other_f, other_wrapped) in enumerate(places):
            if (t // window, f // window, wrapped) == (other_t // window, other_f // window, other_wrapped):
                d = torch.tensor([float(t - other_t), float(f - other_f)])
                offset = d.sign() * torch.log(1 + d.abs())
                added[:, i, j] = attention.bias2(F.relu(attention.bias1(offset)))
    mixed = ((scores + added).softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
    return attention.output(mixed)


@torch.no_grad()
@pytest.mark.parametrize("shifted", [False, True])
def test_window_layers_attend_within_windows(shifted: bool):
    torch.manual_seed(3)
    layer = WindowLayer(tiny_config(), shifted).eval()
    layer.attention.temperature.copy_(torch.tensor([0.001, 0.4, 1.3]))
    layer.attention.bias2.weight.mul_(4)
    x = spectrograms(1, 12, 8 * 12).reshape(1, 96, 12)
    after = x + layer.attention_norm(dense(layer, x))
    expected = after + layer.ffn_norm(layer.linear2(F.gelu(layer.linear1(after))))
    # cosines are divided by 0.01 at least, and what a softmax makes of scores of 100 shows their rounding
    assert (layer(x, (STEPS, BANDS)) - expected).abs().max() <= 100 * rounding(expected.abs().max().item(), terms=12)


@torch.no_grad()
@pytest.mark.parametrize("decoder_type", ["global", "shifted_window"])
def test_hidden_patches_are_unknown_to_the_decoder(decoder_type: str):
    model, x = tiny_pretraining(decoder_type=decoder_type), spectrograms()
    noise = torch.rand(2, STEPS * BANDS, generator=torch.Generator().manual_seed(2))
    output = model(x, noise=noise)
    assert output.last_hidden_state.shape == (2, 1 + 19, 16)
    hidden = unpatchify(output.mask[..., None].expand(-1, -1, PATCH**2), BANDS, PATCH).bool()
    changed = model(torch.where(hidden, torch.randn_like(x), x), noise=noise)
    assert torch.equal(changed.logits, output.logits)
    assert not torch.equal(changed.loss, output.loss)
    seen = model(torch.where(hidden, x, x + 1), noise=noise)
    assert not torch.equal(seen.logits, output.logits)


def test_masks_keep_what_has_the_smallest_noise():
    noise = torch.rand(3, 40)
    kept, restore, mask = random_masking(noise, 0.8)
    assert kept.shape == (3, 8)
    for row in range(3):
        assert kept[row].tolist() == sorted(range(40), key=lambda i: float(noise[row, i]))[:8]
        assert [i for i in range(40) if mask[row, i] == 0] == sorted(kept[row].tolist())
        assert torch.equal(restore[row, kept[row]], torch.arange(8))
    with pytest.raises(DataError, match="keeps none of 4 patches"):
        random_masking(noise[:, :4], 0.8)


def test_whole_steps_and_bands_are_hidden():
    noise = torch.rand(3, 10 + 4)
    kept, restore, mask = time_frequency_masking(noise, 4, 0.6, 0.5)
    for row in range(3):
        steps = sorted(noise[row, :10].argsort()[:4].tolist())
        bands = sorted(noise[row, 10:].argsort()[:2].tolist())
        assert kept[row].tolist() == [4 * step + band for step in steps for band in bands]
        assert sorted(restore[row].tolist()) == list(range(40))
    assert (mask.sum(dim=1) == 32).all()


def test_the_loss_counts_hidden_patches_alone():
    target = torch.tensor([[[1.0, 3.0], [5.0, 5.0], [0.0, 4.0]]])
    logits, mask = torch.zeros(1, 3, 2), torch.tensor([[1.0, 0.0, 1.0]])
    assert reconstruction_loss(logits, target, mask, False) == pytest.approx(((1 + 9) / 2 + 16 / 2) / 2)
    # (1, 3) and (0, 4) have an unbiased deviation of sqrt(2) and sqrt(8): both become -+1/sqrt(2)
    assert reconstruction_loss(logits, target, mask, True) == pytest.approx(0.5, abs=1e-5)


def test_patches_come_with_time_as_the_slow_axis():
    x = spectrograms()
    patches = patchify(x, PATCH)
    assert torch.equal(patches[0, 8 * 5 + 2], x[0, 0, 40:48, 16:24].flatten())
    assert torch.equal(unpatchify(patches, BANDS, PATCH), x)


@pytest.mark.parametrize("decoder_type", ["global", "shifted_window"])
@pytest.mark.parametrize("masking", ["random", "time_frequency"])
def test_it_learns_and_every_parameter_takes_part(decoder_type: str, masking: str):
    model = tiny_pretraining(decoder_type=decoder_type, masking=masking).train()
    x, noise = spectrograms(), torch.rand(2, STEPS * BANDS if masking == "random" else STEPS + BANDS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(x, noise=noise).loss
        loss.backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.99 * losses[0]


def test_gradients_are_the_same_with_checkpointing():
    model, x = tiny_pretraining(decoder_bias_dropout=0.0).train(), spectrograms()
    noise, gradients = torch.rand(2, STEPS * BANDS), []
    for checkpointing in (False, True):
        if checkpointing:
            recompute(model)
        model.zero_grad()
        model(x, noise=noise).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for first, second in zip(*gradients, strict=True):
        assert_same(first, second, **SUMS)


@torch.no_grad()
def test_attention_implementations_agree():
    model, x = tiny_audiomae(), spectrograms()
    expected = model(x).last_hidden_state
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        assert_same(model(x).last_hidden_state, expected, **SUMS)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype):
    x, noise = spectrograms(), torch.rand(2, STEPS * BANDS)
    for model in (tiny_pretraining(), tiny_pretraining(decoder_type="global")):
        expected = model(x, noise=noise)
        output = model.to(dtype)(x, noise=noise)
        assert output.loss.dtype == torch.float32
        torch.testing.assert_close(output.loss, expected.loss, atol=0.02, rtol=0)
        assert output.last_hidden_state.dtype == dtype
        torch.testing.assert_close(output.last_hidden_state.float(), expected.last_hidden_state, atol=0.1, rtol=0)


@torch.no_grad()
def test_a_saved_model_comes_back_as_either(tmp_path: Path):
    model = tiny_pretraining()
    model.save_pretrained(tmp_path)
    AudioMAEFeatureExtractor(num_frames=FRAMES, num_mel_bins=BINS).save_pretrained(tmp_path)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(again) is AudioMAEForPreTraining
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is AudioMAEModel
    assert all(torch.equal(tensor, encoder.state_dict()[n]) for n, tensor in model.audiomae.state_dict().items())
    assert type(AutoConfig.from_pretrained(tmp_path)) is AudioMAEConfig
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert (type(extractor), extractor.num_frames) == (AudioMAEFeatureExtractor, FRAMES)
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(CheckpointError, match=r"missing, the first is 'decoder\."):
        AudioMAEForPreTraining.from_pretrained(tmp_path / "encoder")
    deeper = tiny_pretraining(decoder_num_layers=3)
    deeper.save_pretrained(tmp_path / "deeper")
    with pytest.raises(CheckpointError, match=r"no part of the model, the first is 'decoder\.layers\.2"):
        AudioMAEForPreTraining.from_pretrained(tmp_path / "deeper", config=tiny_config())


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((2, FRAMES, BINS), r"must be \(batch, 1, frames, 64\), got \(2, 96, 64\)"),
        ((2, 2, FRAMES, BINS), "got"),
        ((2, 1, FRAMES, 32), "got"),
        ((2, 1, 90, BINS), "has 90 frames; there must be a multiple of 8, at most 96"),
        ((2, 1, FRAMES + 8, BINS), "has 104 frames"),
        ((2, 1, 0, BINS), "has 0 frames"),
    ],
)
def test_wrong_spectrograms_are_refused(shape: tuple[int, ...], says: str):
    for model in (tiny_audiomae(), tiny_pretraining()):
        with pytest.raises(AudioError, match=says):
            model(torch.zeros(shape))


def test_what_pretraining_cannot_do_is_refused():
    with pytest.raises(AudioError, match="has 40 frames; windows of the decoder need a multiple of 32"):
        tiny_pretraining()(spectrograms(frames=40))
    assert tiny_pretraining(decoder_type="global")(spectrograms(frames=40)).loss.isfinite()
    with pytest.raises(AudioError, match=r"noise must be \(2, 20\) for 'time_frequency' masking, got \(2, 96\)"):
        tiny_pretraining(masking="time_frequency")(spectrograms(), noise=torch.rand(2, 96))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("num_frames", 1_000, "num_frames is 1000; it must divide by 16"),
        ("num_mel_bins", 8, "num_mel_bins is 8"),
        ("hidden_size", 6, "hidden_size is 6; it must divide by 12"),
        ("num_attention_heads", 7, "hidden_size is 768; it must divide by 7"),
        ("decoder_hidden_size", 80, None),
        ("decoder_window_size", 3, "decoder_window_size is 3; it must divide the 64 x 8 patches"),
        ("num_averaged_layers", 13, "num_averaged_layers is 13"),
        ("num_hidden_layers", 10**6, "num_hidden_layers is 1000000"),
        ("decoder_type", "swin", "decoder_type is 'swin'"),
        ("masking", "blocks", "masking is 'blocks'"),
        ("mask_ratio", 1.0, "mask_ratio is 1.0"),
        ("normalize_targets", 1, "normalize_targets must be true or false"),
        ("depth", 12, "has no field 'depth'"),
    ],
)
def test_absurd_configurations_are_refused(field: str, value: Any, says: str | None):
    if says is None:
        AudioMAEConfig(**{field: value})
        return
    with pytest.raises(CheckpointError, match=says):
        AudioMAEConfig(**{field: value})
    with pytest.raises(CheckpointError, match="hidden_size is 6; it must be a multiple of 4"):
        AudioMAEConfig(hidden_size=6, num_attention_heads=3)


def test_the_published_sizes():
    with torch.device("meta"):
        encoder, whole = AudioMAEModel(AudioMAEConfig()), AudioMAEForPreTraining(AudioMAEConfig())
        older = {"decoder_type": "global", "decoder_num_layers": 8}
        plain = AudioMAEForPreTraining(AudioMAEConfig(**older))
    table, decoder_table = 513 * 768, 513 * 512  # which the original counts
    assert encoder.num_parameters() + table == 85_648_128
    assert whole.num_parameters() + table + decoder_table == 136_992_768
    assert plain.num_parameters() + table + decoder_table == 111_656_448


@pytest.mark.needs_shared
@torch.no_grad()
def test_the_original_gives_the_same_features_and_the_same_language_of_audio(shared: Path):
    folder = shared / "golden" / "audioldm2" / "audiomae_encoder"
    golden = load_file(folder / "io.safetensors")
    model = convert("audiomae", folder / "weights.safetensors", num_attention_heads=4)
    assert_language(model, golden, json.loads((folder / "meta.json").read_text())["pools"])


@pytest.mark.needs_shared
@torch.no_grad()
@pytest.mark.parametrize("decoder", ["global", "swin"])
def test_the_original_predicts_the_same_patches(shared: Path, decoder: str):
    folder = shared / "golden" / "audioldm2" / f"audiomae_pretrain_{decoder}"
    golden = load_file(folder / "io.safetensors")
    heads: dict[str, Any] = {"num_attention_heads": 4}
    if decoder == "global":
        heads["decoder_num_attention_heads"] = 4
    model = convert("audiomae", folder / "weights.safetensors", **heads)
    assert_patches(model, golden)
