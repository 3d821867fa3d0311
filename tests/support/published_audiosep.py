# SPDX-License-Identifier: Apache-2.0
"""Files laid out as AudioSep's authors published theirs, of a few hundred kB, written out by name and shape.

The separator and the text tower are the golden ones, so a conversion of these files can be compared with what the
original computed; the audio tower is seeded noise of LAION's names and shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounding import assert_same
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hubsep import AudioSepForAudioSeparation
from hubsep.hub.tensors import window_places
from hubsep.metrics import separation as metrics


GOLDEN = Path(__file__).parents[1] / "golden" / "audiosep"
N_FFT, WINDOW, MEL_BINS, EMBEDDING = 256, 8, 64, 32
CHANNELS, DEPTHS, HEADS = (16, 32), (2, 1), (2, 4)
SUMS = {"terms": 16 * 9, "layers": 60}  # channels times taps of the tiny network; its convolutions in a row
OVERRIDES: dict[str, Any] = {"hop_length": 40, "query_config": {"text_config": {"num_attention_heads": 4}}}


def kernels() -> dict[str, Tensor]:
    """The Fourier transform as the original stores it, from numpy's FFT of unit impulses."""
    window = np.hanning(N_FFT + 1)[:-1]
    forward = np.fft.fft(np.eye(N_FFT))  # symmetric: (sample, frequency) or the reverse
    bins = N_FFT // 2 + 1
    arrays = {
        "base.stft.conv_real.weight": (forward.real[:bins] * window)[:, None],
        "base.stft.conv_imag.weight": (forward.imag[:bins] * window)[:, None],
        "base.istft.conv_real.weight": (forward.conj().real / N_FFT * window[:, None])[..., None],
        "base.istft.conv_imag.weight": (forward.conj().imag / N_FFT * window[:, None])[..., None],
        "base.istft.ola_window": window**2,
    }
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}


def separator() -> dict[str, Tensor]:
    return {**load_file(GOLDEN / "state_dict.safetensors"), **kernels()}


def clap() -> dict[str, Tensor]:
    text = load_file(GOLDEN / "clap_text_state_dict.safetensors")
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    tensors = {name: tensor for name, tensor in text.items() if not name.startswith("audio_projection.0.")}
    tensors["audio_projection.0.weight"] = noise(EMBEDDING, CHANNELS[-1])
    tensors["audio_projection.0.bias"] = noise(EMBEDDING)
    tensors["text_branch.embeddings.position_ids"] = torch.arange(130)[None]
    audio: dict[str, Tensor] = {
        "spectrogram_extractor.stft.conv_real.weight": noise(17, 1, 32),
        "spectrogram_extractor.stft.conv_imag.weight": noise(17, 1, 32),
        "logmel_extractor.melW": noise(17, MEL_BINS),
        "bn0.running_mean": noise(MEL_BINS),
        "bn0.running_var": 1 + noise(MEL_BINS).abs(),
        "bn0.num_batches_tracked": torch.tensor(7),
        "patch_embed.proj.weight": noise(CHANNELS[0], 1, 4, 4),
        "patch_embed.proj.bias": noise(CHANNELS[0]),
        "tscam_conv.weight": noise(5, CHANNELS[-1], 2, 3),
        "tscam_conv.bias": noise(5),
        "head.weight": noise(5, 5),
        "head.bias": noise(5),
    }
    norms = {"bn0": MEL_BINS, "patch_embed.norm": CHANNELS[0], "norm": CHANNELS[-1]}
    for stage, (channels, depth, heads) in enumerate(zip(CHANNELS, DEPTHS, HEADS, strict=True)):
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            norms.update({f"{name}.norm1": channels, f"{name}.norm2": channels})
            audio[f"{name}.attn.relative_position_bias_table"] = noise((2 * WINDOW - 1) ** 2, heads)
            audio[f"{name}.attn.relative_position_index"] = torch.from_numpy(window_places(WINDOW))
            layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
            for layer, (outputs, inputs) in layers.items():
                audio[f"{name}.{layer}.weight"] = noise(outputs * channels, inputs * channels)
                audio[f"{name}.{layer}.bias"] = noise(outputs * channels)
            if block % 2:
                audio[f"{name}.attn_mask"] = noise(4, WINDOW**2, WINDOW**2)
        if stage + 1 < len(CHANNELS):
            norms[f"layers.{stage}.downsample.norm"] = 4 * channels
            audio[f"layers.{stage}.downsample.reduction.weight"] = noise(2 * channels, 4 * channels)
    for name, size in norms.items():
        audio.update({f"{name}.weight": 1 + noise(size), f"{name}.bias": noise(size)})
    return {**tensors, **{f"audio_branch.{name}": tensor for name, tensor in audio.items()}}


def whole() -> dict[str, Tensor]:
    """The tensors of the Lightning module."""
    return {
        **{f"ss_model.{name}": tensor for name, tensor in separator().items()},
        **{f"query_encoder.model.{name}": tensor for name, tensor in clap().items()},
    }


def write_lightning(path: Path, tensors: dict[str, Tensor]) -> Path:
    """What Lightning's trainer leaves: the weights among the state of the run."""
    moments = {name: torch.zeros(3) for name in ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")}
    progress = {"ready": 4, "started": 4, "processed": 4, "completed": 4}
    torch.save(
        {
            "epoch": 3,
            "global_step": 4_000_000,
            "pytorch-lightning_version": "2.0.0",
            "state_dict": tensors,
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": progress, "current": progress}}},
            "callbacks": {},
            "optimizer_states": [{"state": {0: moments}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]}],
            "lr_schedulers": [{"base_lrs": [0.001], "last_epoch": 4, "_last_lr": [0.001], "lr_lambdas": [{}]}],
        },
        path,
    )
    return path


def write_laion(path: Path, tensors: dict[str, Tensor]) -> Path:
    """What LAION publishes: data-parallel names, and a score that is a numpy scalar."""
    named = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 15, "name": "tiny", "optimizer": {"best": np.float64(89.98)}, "state_dict": named}, path)
    return path


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of ten words whose special tokens have RoBERTa's numbers."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "dog", "barking", "rain", "bell", "car", "horn"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    return folder


@torch.inference_mode()
def separate(model: AudioSepForAudioSeparation, mixture: Tensor, condition: Tensor) -> Tensor:
    return model(mixture, query_embeds=condition[:, None]).sources[:, 0]


def si_sdr(estimate: Tensor, reference: Tensor) -> float:
    return metrics.si_sdr(estimate.double(), reference.double()).min().item()


def assert_golden(estimate: Tensor, reference: Tensor) -> None:
    assert_same(estimate, reference, **SUMS)
    assert si_sdr(estimate, reference) >= 90
