# SPDX-License-Identifier: Apache-2.0
"""What a small generator takes the words of a prompt for.

A model that was taught two dozen sounds makes one of them of any word. Its card lists what it knows; a prompt means
the one with the nearest words in the model's own text encoder, unless the name of another sound is nearer still, or
all are far. Decisions: what is not understood is still made, but it is said; a prompt that says what is not to be
heard is refused, because a text encoder hardly hears a "no" and "no rain" became rain. Models whose cards list no
sounds, such as the published ones, take every word as it is, and so do models with adapters, which were taught more
than the card says.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from hubsep.errors import QueryError
from hubsep.hub.bounds import shown
from hubsep.texts import near, phrases, sound_names

from ..separation.meanings import Meaning
from ..separation.wording import read_wording
from .loading.devices import ready
from .prompts import Prompts, tokenised


# Cosine of a prompt and the words of a sound. With audioldm2-tiny, of 218 phrases for its sounds that are not among
# the words, 77 % are understood and 65 % as what they mean; of 361 for other sounds 93 % are not.
NEAR = 0.45
WORDS = 6  # for each sound that is known; more take longer


class Understanding(Prompts):
    """The rung that says what the pipeline was told, as far as its card lists `known_sounds`."""

    _sound_features: tuple[list[str], Tensor] | None = None

    @property
    def has_few_sounds(self) -> bool:
        """Whether the model knows the sounds of its card and no others."""
        return bool(self.known_sounds) and self._adapter is None

    def check_texts(self, texts: Sequence[str]) -> None:
        """Refuses what is not to be heard as a prompt.

        Raises:
            QueryError: naming the prompt.
        """
        for text in texts if self.has_few_sounds else ():
            wording = read_wording(text)
            if wording.unwanted:
                unwanted = ", ".join(wording.unwanted)
                wanted = f"the prompt {wording.wanted!r}" if wording.wanted else "what is to be heard as the prompt"
                raise QueryError(
                    f"{shown(text)} says what is not to be heard, and a prompt is heard whole: pass {wanted}, and "
                    f"negative_prompt={unwanted!r}"
                )

    def understand(self, prompts: Sequence[str]) -> list[Meaning] | None:
        """What each prompt is taken for: one of the sounds the model was taught, or none, and then the nearest.

        Args:
            prompts: texts.

        Returns:
            A `Meaning` for each, with the cosine as its probability where it is not understood; None if the model's
            card lists no sounds.
        """
        if not self.has_few_sounds:
            return None
        names, features = self._sounds()
        closeness = self.text_features(list(prompts)).cpu() @ features.T
        known = torch.tensor([name in self.known_sounds for name in names])
        nearest = closeness.masked_fill(~known, -1.0).max(dim=-1)
        others = closeness.masked_fill(known, -1.0).amax(dim=-1)
        meanings = []
        closest = nearest.values.tolist(), others.tolist(), nearest.indices.tolist()
        for prompt, cosine, other, number in zip(prompts, *closest, strict=True):
            name = names[number]
            understood = cosine > max(NEAR, other) and not read_wording(prompt).unwanted
            meant = near(prompt, self.known_sounds) or name
            meanings.append(Meaning(name) if understood else Meaning(None, meant, max(0.0, cosine)))
        return meanings

    def warn_of_unknown(self, prompts: Sequence[str]) -> None:
        """Warns of prompts that mean no sound the model was taught."""
        for prompt, meaning in zip(prompts, self.understand(prompts) or (), strict=False):
            if meaning.understood_as is None:
                warnings.warn(
                    f"{prompt!r} is no sound this model knows, and what it makes of it will be another; the nearest "
                    f"is {meaning.nearest!r}, pipe.known_sounds lists all",
                    UserWarning,
                    stacklevel=5,  # who called the pipeline
                )

    def _sounds(self) -> tuple[list[str], Tensor]:
        """Words for sounds: the name of the sound each stands for, and their features, which are made once."""
        if self._sound_features is None:
            words = [(name, word) for name in self.known_sounds for word in [name, *phrases(name)[:WORDS]]]
            words += [(name, name) for name in sound_names() if name not in self.known_sounds]
            features = [self.text_features([word for _, word in words[i : i + 64]]) for i in range(0, len(words), 64)]
            self._sound_features = [name for name, _ in words], torch.cat(features).cpu()
        return self._sound_features

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Tensor:
        """CLAP's embeddings of texts, (texts, size), of unit length."""
        tokens = tokenised(self.tokenizer, texts).to(self._execution_device)
        ready(self.text_encoder)
        features = self.text_encoder.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return torch.nn.functional.normalize(getattr(features, "pooler_output", features).float(), dim=-1)


__all__ = ["Understanding"]
