# SPDX-License-Identifier: Apache-2.0
"""Where transformers' text-to-audio pipeline wants one tokenizer and AudioLDM 2 has two: texts go on as they are.

CLAP and T5 each read a prompt with a tokenizer of their own, inside the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature


class AudioLDM2TextReader:
    """Hands texts to `AudioLDM2ForTextToWaveform`, which reads them itself."""

    # of batches: texts are not padded here, but transformers asks
    pad_token_id = 0
    padding_side = "right"

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> AudioLDM2TextReader:
        """There is nothing to load."""
        return cls()

    def save_pretrained(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """There is nothing to save."""
        return ()

    def __call__(self, text: str | Sequence[str], **kwargs: Any) -> BatchFeature:
        """The texts as `prompt`."""
        return BatchFeature({"prompt": [text] if isinstance(text, str) else list(text)})


__all__ = ["AudioLDM2TextReader"]
