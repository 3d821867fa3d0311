# SPDX-License-Identifier: Apache-2.0
"""Text and example recordings on their way to AudioSep's query encoder."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import BatchFeature, ProcessorMixin

from ...audio.arrays import plain_array
from ...audio.reader import resample
from ...errors import CheckpointError, QueryError
from ...hub.clap import check_sounds
from ...hub.json_files import read_json
from ...hub.loading import check_files, check_fit, library_errors, load_feature_extractor, load_tokenizer
from ...hub.models import HUB_OPTIONS
from ...hub.resolve import inside, resolve_folder


class AudioSepProcessor(ProcessorMixin):
    """Tokenises text queries and turns example recordings into the log-mel spectrograms CLAP expects.

    Args:
        feature_extractor: a `ClapFeatureExtractor`. AudioSep's CLAP wants `frequency_min=50`.
        tokenizer: the tokenizer of the CLAP text tower.
    """

    def __init__(self, feature_extractor: Any, tokenizer: Any):
        super().__init__(feature_extractor, tokenizer)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *, subfolder: str = "", **kwargs: Any
    ) -> AudioSepProcessor:
        """Loads both parts from a folder or repository, each by its known class, after checking their files.

        Args:
            pretrained_model_name_or_path: the folder or repository.
            subfolder: where in it the files are.
            **kwargs: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`. What transformers passes
                beside these has no effect: nothing is replaced while loading.

        Raises:
            CheckpointError: naming the file, the field and what is accepted.
        """
        if kwargs.get("trust_remote_code"):
            raise CheckpointError("trust_remote_code=True is refused: nothing in a folder is run.")
        hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        folder = inside(resolve_folder(pretrained_model_name_or_path, weights=False, **hub), subfolder)
        check_files(folder)
        extractor, tokenizer = load_feature_extractor(folder), load_tokenizer(folder)
        if (folder / "config.json").is_file():
            content = read_json(folder / "config.json")
            check_fit(tokenizer, content, "the tokenizer")
            check_sounds(extractor, (content.get("query_config") or {}).get("audio_config") or {})
        return cls(extractor, tokenizer)

    def __call__(
        self,
        text: str | list[str] | None = None,
        audio: NDArray[np.float32] | list[NDArray[np.float32]] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepares text queries, example recordings, or both.

        Args:
            text: one query or several.
            audio: one example recording or several, each (samples,) or (channels, samples); channels are averaged,
                because the query describes the sound and not where it stands.
            sampling_rate: of `audio`, in Hz; resampled to the feature extractor's rate.
            return_tensors: "pt" or "np".

        Returns:
            `input_ids` and `attention_mask` for text; `input_features` and `is_longer` for audio.

        Raises:
            QueryError: if there is neither, a text is empty, or the rate of the audio is missing.
        """
        if text is None and audio is None:
            raise QueryError("pass text or audio; got neither")
        features: dict[str, Any] = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            for query in texts:
                if not isinstance(query, str) or not query.strip():
                    raise QueryError(f"a text query must be words, got {query!r}")
            limit = min(self.tokenizer.model_max_length, 512)
            with library_errors("the tokenizer"):
                tokens = self.tokenizer(texts, padding=True, return_tensors=return_tensors)
            if tokens["input_ids"].shape[1] > limit:
                raise QueryError(f"a query may have {limit} tokens, got {tokens['input_ids'].shape[1]}; shorten it")
            features.update(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        if audio is not None:
            if sampling_rate is None:
                raise QueryError("pass the sampling_rate of the example recordings")
            features.update(self._audio_features(audio, sampling_rate, return_tensors))
        return BatchFeature(features)

    def _audio_features(self, audio: Any, sampling_rate: int, return_tensors: str) -> dict[str, Any]:
        rate = self.feature_extractor.sampling_rate
        recordings = audio if isinstance(audio, (list, tuple)) else [audio]
        mono = [
            np.atleast_2d(np.asarray(plain_array(waveform), dtype=np.float32)).mean(axis=0) for waveform in recordings
        ]
        mono = [resample(waveform[None], sampling_rate, rate)[0] for waveform in mono]
        longest = self.feature_extractor.nb_max_samples
        # The extractor would cut a random piece out of a longer one; the first ten seconds are the same each time.
        mono = [waveform[:longest] for waveform in mono]
        extracted = self.feature_extractor(mono, sampling_rate=rate, return_tensors=return_tensors)
        return {"input_features": extracted["input_features"], "is_longer": extracted["is_longer"]}


__all__ = ["AudioSepProcessor"]
