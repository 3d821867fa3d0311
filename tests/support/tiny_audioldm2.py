# SPDX-License-Identifier: Apache-2.0
"""A seeded AudioLDM 2 of some ten thousand parameters, and its folder as diffusers writes it.

Every component is of the class the published folders name, `GPT2Model` included. 64 frames of 20 samples are the
length it was "trained" on: 0.08 s.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
from rounding import rounding


LETTERS = "abcdefghijklmnopqrstuvwxyz"
SAMPLES, SAMPLING_RATE = 1_280, 16_000
SECONDS = SAMPLES / SAMPLING_RATE
LOA_SIZE, TEXT_SIZE, PHONEMES = 16, 32, 24
# How far waveforms of the same call may lie apart, whose peak is 1: sums of up to 64 products, some 300 in a row, from
# the words through GPT-2, three steps of the U-Net and the decoder to the vocoder.
CLOSE = rounding(1.0, terms=64, layers=300)


def tiny_components(*, speech: bool = False) -> dict[str, Any]:
    """The components by name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "vae": _vae(),
            "text_encoder": _clap(),
            "text_encoder_2": _vits() if speech else _t5(),
            "projection_model": _projection(speech),
            "language_model": _gpt2(),
            "tokenizer": _clap_tokenizer(),
            "tokenizer_2": _vits_tokenizer() if speech else _t5_tokenizer(),
            "feature_extractor": transformers.ClapFeatureExtractor(
                feature_size=16,
                sampling_rate=8_000,
                hop_length=80,
                fft_window_size=256,
                max_length_s=1,
                frequency_max=4_000,
                padding="repeatpad",
                truncation="rand_trunc",
            ),
            "unet": _unet(speech),
            "scheduler": diffusers.DDIMScheduler(
                beta_start=0.0015,
                beta_end=0.0195,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            "vocoder": _vocoder(),
        }


def published_folder(folder: Path, components: dict[str, Any] | None = None) -> Path:
    """A folder as diffusers writes it."""
    diffusers.AudioLDM2Pipeline(**(components or tiny_components())).save_pretrained(folder)
    return folder


def diffusers_peer(components: dict[str, Any]) -> Any:
    """diffusers' own pipeline of the same components, with the head on GPT-2 that it cannot do without."""
    body = components["language_model"]
    headed = transformers.GPT2LMHeadModel(body.config).eval()
    headed.transformer = body
    peer = diffusers.AudioLDM2Pipeline(**{**components, "language_model": headed})
    peer.set_progress_bar_config(disable=True)
    return peer


def _vae() -> Any:
    return diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=0.7,
    ).eval()


def _clap() -> Any:
    text = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 80,
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
    return transformers.ClapModel(
        transformers.ClapConfig(text_config=text, audio_config=sound, projection_dim=12)
    ).eval()


def _t5() -> Any:
    config = transformers.T5Config(
        vocab_size=40, d_model=TEXT_SIZE, d_kv=8, d_ff=40, num_layers=1, num_heads=4, is_encoder_decoder=False
    )
    return transformers.T5EncoderModel(config).eval()


def _vits() -> Any:
    config = transformers.VitsConfig(
        vocab_size=183,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=16,
        flow_size=16,
        spectrogram_bins=9,
        upsample_initial_channel=16,
        upsample_rates=[4],
        upsample_kernel_sizes=[8],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1,
        posterior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1,
        depth_separable_num_layers=1,
        wavenet_dilation_rate=1,
    )
    return transformers.VitsModel(config).eval()


def _projection(speech: bool) -> Any:
    if not speech:
        return AudioLDM2ProjectionModel(12, TEXT_SIZE, LOA_SIZE).eval()
    return AudioLDM2ProjectionModel(12, 16, LOA_SIZE, use_learned_position_embedding=True, max_seq_length=PHONEMES)


def _gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=8,
        n_embd=LOA_SIZE,
        n_layer=2,
        n_head=2,
        n_positions=128,
        max_new_tokens=8,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2Model(config).eval()


def _unet(speech: bool) -> Any:
    sizes = [None, LOA_SIZE] if speech else [None, LOA_SIZE, TEXT_SIZE]
    return AudioLDM2UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=[sizes, sizes],
    ).eval()


def _vocoder() -> Any:
    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=8,
        sampling_rate=SAMPLING_RATE,
        upsample_initial_channel=16,
        upsample_rates=[5, 4],
        upsample_kernel_sizes=[10, 8],
        resblock_kernel_sizes=[3, 5],
        resblock_dilation_sizes=[[1, 3, 5]] * 2,
        normalize_before=False,
    )
    vocoder = transformers.SpeechT5HifiGan(config).eval()
    with torch.no_grad():
        for parameter in vocoder.parameters():  # as it is initialised, the peak of its output is 1e-6
            parameter.normal_(std=1.2 / max(1, parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1)
    return vocoder


def _clap_tokenizer() -> Any:
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *LETTERS]
    return transformers.RobertaTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=64
    )


def _t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=48)


def _vits_tokenizer() -> Any:
    with tempfile.TemporaryDirectory() as place:
        vocabulary = Path(place) / "vocab.json"
        symbols = {"_": 0, **{letter: index + 1 for index, letter in enumerate(LETTERS + " ")}}
        vocabulary.write_text(json.dumps({**symbols, "<unk>": 30}))
        return transformers.VitsTokenizer(
            str(vocabulary), pad_token="_", phonemize=False, add_blank=False, model_max_length=PHONEMES
        )


def tiny_audio_mae() -> Any:
    """AudioMAE's encoder with the size of the tiny GPT-2, that hears 1.28 s."""
    from hubsep.models.audiomae.configuration_audiomae import AudioMAEConfig
    from hubsep.models.audiomae.modeling_audiomae import AudioMAEModel

    config = AudioMAEConfig(
        num_frames=128,
        num_mel_bins=16,
        hidden_size=LOA_SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_averaged_layers=1,
        decoder_type="global",
        decoder_hidden_size=16,
        decoder_num_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AudioMAEModel(config).eval()
