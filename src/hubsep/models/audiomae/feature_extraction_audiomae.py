# SPDX-License-Identifier: Apache-2.0
"""Waveforms to the spectrograms AudioMAE takes, as Kaldi makes them, with the original's normalisation.

Decisions: the mean of a whole waveform is taken out first; frames of silence that fill a spectrogram up are zeros
before the normalisation, so they are a positive constant after it (0.467 with the published numbers). Nothing is
resampled, mixed down or cut unless it is asked for: what does not fit is an error that says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin

from ...audio.arrays import plain_array
from ...errors import AudioError, CheckpointError
from ...hub.bounds import shown
from ...hub.fields import check_fields
from ...hub.loading import check_files, library_errors
from ...hub.models import HUB_OPTIONS
from ...hub.processors import AUDIOMAE_FIELDS
from ...hub.resolve import inside, resolve_folder
from .configuration_audiomae import AudioMAEConfig


FRAME_MS, SHIFT_MS = 25, 10


class AudioMAEFeatureExtractor(FeatureExtractionMixin):
    """Makes log-mel spectrograms of waveforms.

    Args:
        sampling_rate: of the waveforms, in Hz.
        num_frames: frames of a spectrogram, 10 ms apart; shorter recordings are filled up with silence.
        num_mel_bins: mel bins.
        mean: of the spectrograms AudioMAE was trained on.
        std: their standard deviation; spectrograms are divided by twice this.

    Raises:
        CheckpointError: a value is out of its range.
    """

    model_input_names = ["input_features"]

    def __init__(
        self,
        sampling_rate: int = 16_000,
        num_frames: int = 1_024,
        num_mel_bins: int = 128,
        mean: float = -4.2677393,
        std: float = 4.5689974,
        **kwargs: Any,
    ):
        fields = {
            "sampling_rate": sampling_rate, "num_frames": num_frames, "num_mel_bins": num_mel_bins,
            "mean": mean, "std": std,
        }  # fmt: skip
        check_fields(type(self).__name__, {**fields, **kwargs}, AUDIOMAE_FIELDS)
        super().__init__(**kwargs)
        self.sampling_rate, self.num_frames, self.num_mel_bins = sampling_rate, num_frames, num_mel_bins
        self.mean, self.std = mean, std

    @classmethod
    def of(cls, config: AudioMAEConfig) -> AudioMAEFeatureExtractor:
        """The one that makes what a model of this configuration reads."""
        return cls(config.sampling_rate, config.num_frames, config.num_mel_bins)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *, subfolder: str = "", **kwargs: Any
    ) -> AudioMAEFeatureExtractor:
        """Loads from a folder or repository whose files passed every check; takes what transformers takes.

        Raises:
            CheckpointError: naming the file, the field and what is accepted.
        """
        if kwargs.get("trust_remote_code"):
            raise CheckpointError("trust_remote_code=True is refused: nothing in a folder is run.")
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        folder = inside(resolve_folder(pretrained_model_name_or_path, weights=False, **hub), subfolder)
        check_files(folder)
        with library_errors(f"the feature extractor of {shown(folder.name)}"):
            return super().from_pretrained(folder, local_files_only=True, **kwargs)

    @property
    def minimum_samples(self) -> int:
        """Samples of one frame."""
        return self.sampling_rate * FRAME_MS // 1_000

    def frames_of(self, samples: int) -> int:
        """Whole frames in a waveform of so many samples."""
        return 1 + (samples - self.minimum_samples) // (self.sampling_rate * SHIFT_MS // 1_000)

    def __call__(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        *,
        num_frames: int | None = None,
        truncation: bool = False,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepares one recording or several.

        Args:
            audio: a mono waveform, (samples,) or (1, samples), or a list of them; float in [-1, 1].
            sampling_rate: of `audio`, in Hz; must be the extractor's.
            num_frames: instead of the extractor's own, for a model that takes shorter spectrograms.
            truncation: whether what is longer than `num_frames` is cut; otherwise it is an error.
            return_tensors: "pt" or "np".

        Returns:
            `input_features` (batch, 1, num_frames, num_mel_bins), float32.

        Raises:
            AudioError: if the rate is missing or another, or a waveform is not mono, empty, too short, too long or
                not finite.
        """
        if sampling_rate != self.sampling_rate:
            raise AudioError(
                f"sampling_rate is {sampling_rate}; AudioMAE needs {self.sampling_rate} Hz: resample with "
                "hubsep.audio.resample and pass sampling_rate"
            )
        frames = self.num_frames if num_frames is None else num_frames
        several = isinstance(audio, list | tuple) and not (audio and isinstance(audio[0], float | int))
        waveforms: Sequence[Any] = audio if several else [audio]
        if not waveforms:
            raise AudioError("audio is an empty list; pass at least one waveform")
        features = torch.stack([self._spectrogram(self._mono(one), frames, truncation) for one in waveforms])
        if return_tensors not in ("pt", "np"):
            raise AudioError(f"return_tensors is {return_tensors!r}; it must be 'pt' or 'np'")
        return BatchFeature({"input_features": features if return_tensors == "pt" else features.numpy()})

    def _mono(self, waveform: Any) -> Tensor:
        """A waveform as (samples,), float32 on the CPU."""
        if not isinstance(waveform, Tensor):
            waveform = torch.from_numpy(np.array(plain_array(waveform)))
        shape = tuple(waveform.shape)
        if waveform.ndim == 2 and shape[0] == 1:
            waveform = waveform[0]
        if waveform.ndim != 1:
            raise AudioError(f"audio must be (samples,) or (1, samples), got {shape}; average the channels first")
        if not waveform.is_floating_point():
            raise AudioError(f"audio is {waveform.dtype}; pass floats in [-1, 1]")
        if len(waveform) < self.minimum_samples:
            raise AudioError(f"audio has {len(waveform)} samples; a frame needs {self.minimum_samples}")
        waveform = waveform.detach().cpu().float()
        if not waveform.isfinite().all():
            raise AudioError("audio holds NaN or infinities")
        return waveform

    def _spectrogram(self, waveform: Tensor, num_frames: int, truncation: bool) -> Tensor:
        """(samples,) -> (1, num_frames, num_mel_bins)."""
        from torchaudio.compliance import kaldi

        frames = self.frames_of(len(waveform))
        if frames > num_frames and not truncation:
            raise AudioError(
                f"audio has {frames} frames, {len(waveform) / self.sampling_rate:.2f} s; there is place for "
                f"{num_frames}: cut it in pieces, or pass truncation=True for its start"
            )
        mel = kaldi.fbank(
            (waveform - waveform.mean()).unsqueeze(0), htk_compat=True, sample_frequency=self.sampling_rate,
            use_energy=False, window_type="hanning", num_mel_bins=self.num_mel_bins, dither=0.0,
            frame_length=FRAME_MS, frame_shift=SHIFT_MS,
        )  # fmt: skip
        mel = F.pad(mel[:num_frames], (0, 0, 0, max(num_frames - len(mel), 0)))
        return ((mel - self.mean) / (2 * self.std)).unsqueeze(0)


__all__ = ["AudioMAEFeatureExtractor"]
