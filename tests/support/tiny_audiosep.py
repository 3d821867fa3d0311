# SPDX-License-Identifier: Apache-2.0
"""A seeded AudioSep of a few thousand parameters with its processor, for tests that need a text-queried model."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ClapConfig, ClapFeatureExtractor, PreTrainedTokenizerFast

from hubsep import AudioSepConfig, AudioSepForAudioSeparation, AudioSepProcessor


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
