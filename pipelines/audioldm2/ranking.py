# SPDX-License-Identifier: Apache-2.0
"""Which of several candidates sounds most like its prompt, by CLAP.

Candidates are compared with those of their own prompt only, and the scores are returned. CLAP hears ten seconds: of
longer sounds it is given the first ten, where its own feature extractor would draw a piece at random.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hubsep.audio.reader import resample
from hubsep.errors import QueryError
from hubsep.hub.clap import check_sounds

from .understanding import Understanding


class Ranking(Understanding):
    """The rung that listens to what was made."""

    @torch.no_grad()
    def score_waveforms(self, prompts: list[str], waveforms: Tensor) -> Tensor:
        """The cosine between CLAP's embeddings of prompts and sounds.

        Args:
            prompts: of the sounds.
            waveforms: (prompts * candidates, samples), the candidates of a prompt one after the other.

        Returns:
            (prompts, candidates), float32, on the CPU.

        Raises:
            QueryError: if the folder has no feature extractor, or CLAP's text part only.
        """
        self.check_ranking()
        text = self.text_features(prompts)
        sound = self.text_encoder.get_audio_features(**self._features(waveforms))
        sound = torch.nn.functional.normalize(getattr(sound, "pooler_output", sound).float(), dim=-1)
        candidates = sound.unflatten(0, (len(prompts), -1))
        return (candidates @ text[:, :, None])[..., 0].cpu()

    def check_ranking(self) -> None:
        """Refuses to rank where nothing hears.

        Raises:
            QueryError: if the folder has no feature extractor, or CLAP's text part only.
            CheckpointError: if the feature extractor is that of another CLAP.
        """
        if self.feature_extractor is None or not hasattr(self.text_encoder, "get_audio_features"):
            raise QueryError("candidates cannot be ranked: the folder holds no CLAP that hears; ask for one a prompt")
        check_sounds(self.feature_extractor, self.text_encoder.config.audio_config.to_dict())

    def rank(self, prompts: list[str], waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates of each prompt from the best to the worst, and their scores (prompts, candidates)."""
        scores, order = self.score_waveforms(prompts, waveforms).sort(dim=1, descending=True, stable=True)
        rows = order + torch.arange(len(prompts))[:, None] * order.shape[1]
        return waveforms[rows.flatten()], scores

    def _features(self, waveforms: Tensor) -> dict[str, Tensor]:
        extractor = self.feature_extractor
        assert extractor is not None  # `check_ranking` was asked
        rate, longest = int(extractor.sampling_rate), int(extractor.nb_max_samples)
        heard = (resample(row[None].numpy(), self.sampling_rate, rate)[0] for row in waveforms)
        listed = [np.ascontiguousarray(row[:longest]) for row in heard]
        features = extractor(listed, sampling_rate=rate, return_tensors="pt")
        kinds = {"input_features": self.text_encoder.dtype, "is_longer": torch.bool}
        return {
            name: features[name].to(self._execution_device, kind) for name, kind in kinds.items() if name in features
        }


__all__ = ["Ranking"]
