# SPDX-License-Identifier: Apache-2.0
"""From words to what AudioLDM 2's U-Net is conditioned on: the language of audio, and the states of the text.

GPT-2 gets the CLAP embedding and the states of T5 (or of the phonemes), each between two learned marks, and goes on
with hidden states instead of words: the language of audio, LOA. Decisions:

- GPT-2 keeps its keys and values from token to token and computes no vocabulary; the published checkpoints name
  `GPT2Model`, which has neither head nor `generate`. `GPT2LMHeadModel` is accepted, its head is not used.
- The unconditional LOA is zeros, as in the original, or what GPT-2 makes of the negative prompt, as in diffusers.
- Positions are those of a prompt on its own: padding, which a batch of texts of several lengths has, takes none.
  GPT-2 would count it (as diffusers does in a batch), and a prompt would sound like another one beside longer ones.
- A text that does not fit is refused, not cut. The original replaces one CLAP embedding in ten by that of the empty
  text, at inference too; that is not done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hubsep.errors import QueryError
from hubsep.hub.bounds import is_whole, shown
from hubsep.hub.loading import library_errors

from .arguments import as_texts
from .codec import Codec
from .conditions import Conditions
from .loading.devices import ready
from .settings import Sampling, Unconditional


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOA_TOKENS, SPEECH_TOKENS = 8, 512
END_OF_PHONEMES = 182


class Prompts(Codec):
    """The rung that reads prompts."""

    @property
    def is_speech(self) -> bool:
        """Whether the second text is what is to be said, as phonemes."""
        return getattr(self.text_encoder_2.config, "model_type", None) == "vits"

    def check_texts(self, texts: Sequence[str]) -> None:
        """Refuses texts that are no prompts of this model; models take every text, if a rung above says nothing."""

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        *,
        transcription: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        loa_prefix: Tensor | None = None,
    ) -> Conditions:
        """Encodes prompts, and lets GPT-2 go on with them.

        Args:
            prompt: what is to be heard.
            transcription: what is to be said, for models of speech.
            max_new_tokens: tokens of LOA; by default what the model was trained with.
            loa_prefix: tokens that are known already, (batch, tokens, size): GPT-2 makes the others.

        Raises:
            QueryError: if a text is missing, empty of meaning to the model, or too long.
        """
        if not (max_new_tokens is None or is_whole(max_new_tokens)):
            raise QueryError(f"max_new_tokens must be a whole number from 1 on, got {shown(max_new_tokens)}")
        texts = as_texts(prompt)
        self.check_texts(texts)
        said = check_transcription(self.is_speech, transcription, len(texts))
        embeddings = self._text_embeddings(texts)
        states, weights = self._phoneme_states(said) if said is not None else self._text_states(texts)
        loa = self._continue_into_loa(embeddings, states, weights, max_new_tokens, loa_prefix)
        return Conditions(loa, states, weights.float())

    @torch.no_grad()
    def encode_unconditional(
        self,
        like: Conditions,
        kind: Unconditional,
        negative_prompt: str | Sequence[str] | None = None,
    ) -> Conditions:
        """What guidance leads away from, for as many items as `like` has.

        Raises:
            QueryError: if there is another number of negative prompts, or there are any with `kind="zeros"`.
        """
        batch, tokens = like.loa.shape[:2]
        if kind not in ("zeros", "generated"):
            raise QueryError(f'unconditional must be "zeros" or "generated", got {kind!r}')
        if kind == "zeros":
            if negative_prompt is not None:
                raise QueryError('a negative prompt has no effect on unconditional="zeros"; leave that out')
            states, weights = self._empty_states(1)
            rows = (batch, -1, -1)
            return Conditions(torch.zeros_like(like.loa), states.expand(rows), weights.expand(batch, -1).float())
        texts = as_texts(negative_prompt) if negative_prompt is not None else [""]
        if len(texts) not in (1, batch):
            raise QueryError(f"there are {batch} prompts and {len(texts)} negative prompts; pass one for each, or one")
        embeddings = self._text_embeddings(texts)
        states, weights = self._empty_states(len(texts)) if self.is_speech else self._text_states(texts)
        if len(texts) < batch:
            embeddings, states, weights = (
                part.expand(batch, *part.shape[1:]) for part in (embeddings, states, weights)
            )
        mask = torch.zeros_like(weights) if self.is_speech else weights
        # a text takes as many positions as its prompt, as in diffusers, where it is padded to the prompt
        lengths = torch.maximum(weights.sum(dim=1), like.weights.to(weights.device).sum(dim=1).round().long())
        loa = self._continue_into_loa(embeddings, states, mask, tokens, None, lengths)
        return Conditions(loa, states, weights.float())

    def guidance_of(
        self, positive: Conditions, unconditional: Unconditional | None, negative_prompt: str | Sequence[str] | None
    ) -> Conditions:
        """What guidance leads away from; zeros, as in the original, unless something else is asked for."""
        kind: Unconditional = unconditional or ("zeros" if negative_prompt is None else "generated")
        return self.encode_unconditional(positive, kind, negative_prompt)

    def led_away_from(self, positive: Conditions, sampling: Sampling) -> Conditions:
        """The same as the settings of a call say."""
        return self.guidance_of(positive, sampling.unconditional, sampling.negative_prompt)

    def default_loa_tokens(self) -> int:
        """How many tokens of LOA the model was trained with."""
        default = SPEECH_TOKENS if self.is_speech else LOA_TOKENS
        return int(getattr(self.language_model.config, "max_new_tokens", None) or default)

    def _text_embeddings(self, texts: list[str]) -> Tensor:
        """CLAP's embedding of each text, (batch, 1, size)."""
        encoded = tokenised(self.tokenizer, texts).to(self._execution_device)
        identities, mask = encoded["input_ids"], encoded["attention_mask"]
        if not hasattr(self.text_encoder, "get_text_features"):  # CLAP without the part that hears
            return normalize(self.text_encoder(identities, attention_mask=mask).text_embeds, dim=-1)[:, None]
        ready(self.text_encoder)
        features = self.text_encoder.get_text_features(identities, attention_mask=mask)
        return getattr(features, "pooler_output", features)[:, None]

    def _text_states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """T5's states of each text, (batch, states, size), and which of them are no padding."""
        encoded = tokenised(self.tokenizer_2, texts).to(self._execution_device)
        states = self.text_encoder_2(encoded["input_ids"], attention_mask=encoded["attention_mask"])[0]
        return states, encoded["attention_mask"]

    def _phoneme_states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """States of the phonemes, always as many as the tokenizer's limit, for each of which a place is learned."""
        try:
            limit = self.tokenizer_2.model_max_length
            encoded = tokenised(self.tokenizer_2, texts, limit).to(self._execution_device)
        except ImportError as error:
            raise QueryError(f"reading a transcription out needs phonemizer and espeak-ng: {error}") from error
        identities, mask = encoded["input_ids"], encoded["attention_mask"]
        lengths = mask.sum(dim=1)
        if int(lengths.max()) >= identities.shape[1]:
            raise QueryError(f"a transcription has more than the {identities.shape[1] - 1} phonemes that fit")
        rows = torch.arange(len(texts), device=identities.device)
        identities[rows, lengths], mask[rows, lengths] = END_OF_PHONEMES, 1
        ready(self.text_encoder_2)
        encoder = self.text_encoder_2.text_encoder
        return encoder(identities, attention_mask=mask, padding_mask=mask[..., None].to(self.text_encoder_2.dtype))[
            0
        ], mask

    def _empty_states(self, batch: int) -> tuple[Tensor, Tensor]:
        """States of the empty text; those of no phonemes are zeros."""
        if not self.is_speech:
            return self._text_states([""] * batch)
        config = self.text_encoder_2.config
        shape = (batch, self.tokenizer_2.model_max_length, config.hidden_size)
        states = torch.zeros(shape, device=self._execution_device, dtype=self.text_encoder_2.dtype)
        return states, torch.ones(shape[:2], device=self._execution_device, dtype=torch.long)

    def _continue_into_loa(
        self,
        embeddings: Tensor,
        states: Tensor,
        mask: Tensor,
        tokens: int | None,
        prefix: Tensor | None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Language of audio; each text takes as many positions as it has states, or as `lengths` (batch,) says."""
        projected = self.projection_model(
            hidden_states=embeddings.to(self.projection_model.dtype),
            hidden_states_1=states.to(self.projection_model.dtype),
            attention_mask=mask.new_ones((len(mask), 1)),
            attention_mask_1=mask,
        )
        if self.is_speech:  # phonemes are padded for every prompt alike, and the original counts all their places
            lengths = mask.new_full((len(mask),), mask.shape[1])
        positions = counted(projected.attention_mask)
        if lengths is not None:
            positions[:, -1] += lengths - mask.sum(dim=1)  # the mark after the text
        wanted = tokens or self.default_loa_tokens()
        embeds, seen = projected.hidden_states, projected.attention_mask
        return self.generate_loa(embeds, seen, wanted, prefix=prefix, positions=positions)

    @torch.no_grad()
    def generate_loa(
        self,
        embeds: Tensor,
        mask: Tensor,
        tokens: int,
        *,
        prefix: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Lets GPT-2 go on with hidden states.

        Args:
            embeds: what it reads, (batch, positions, size).
            mask: 0 for padding, (batch, positions).
            tokens: how many are wanted, those of `prefix` included.
            prefix: the first of them, (batch, at most tokens, size).
            positions: of what it reads, (batch, positions); by default counted without padding.

        Returns:
            (batch, tokens, size).

        Raises:
            QueryError: if that is more than GPT-2 has positions for.
        """
        ready(self.language_model)
        body = getattr(self.language_model, "transformer", self.language_model)
        positions = counted(mask) if positions is None else positions
        read = int(positions.max()) + 1
        if read + tokens > body.config.n_positions:
            raise QueryError(
                f"{read} positions of text and {tokens} tokens of LOA are more than the "
                f"{body.config.n_positions} positions of the language model; shorten the text"
            )
        states = [] if prefix is None else [prefix[:, n : n + 1].to(embeds) for n in range(prefix.shape[1])][:tokens]
        step, cache = torch.cat([embeds, *states], dim=1).to(body.dtype), None
        mask = torch.cat([mask, mask.new_ones((len(mask), len(states)))], dim=1)
        places = torch.arange(1, len(states) + 1, device=positions.device)
        positions = torch.cat([positions, positions[:, -1:] + places], dim=1)
        while len(states) < tokens:
            output = body(
                inputs_embeds=step, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            step, cache = output.last_hidden_state[:, -1:], output.past_key_values
            states.append(step)
            mask, positions = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=1), positions[:, -1:] + 1
        return torch.cat(states, dim=1)


def counted(mask: Tensor) -> Tensor:
    """The position of each place, counted without padding, (batch, positions)."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def check_transcription(speech: bool, transcription: str | Sequence[str] | None, prompts: int) -> list[str] | None:
    """The transcriptions, one for each prompt, if the model takes any.

    Raises:
        QueryError: if they are missing, too many or too few, or the model takes none.
    """
    if not speech:
        if transcription is not None:
            raise QueryError("this model takes no transcription; say in the prompt what is to be heard")
        return None
    if transcription is None:
        raise QueryError("this model speaks: pass transcription= with what is to be said")
    said = as_texts(transcription)
    if len(said) not in (1, prompts):
        raise QueryError(f"there are {prompts} prompts and {len(said)} transcriptions; pass one for each")
    return said * prompts if len(said) == 1 else said


def tokenised(tokenizer: PreTrainedTokenizerBase, texts: list[str], at_least: int = 0) -> Any:
    """Token ids and mask, padded to the longest text and to `at_least` so many.

    Raises:
        QueryError: if a text has more tokens than the tokenizer's limit.
    """
    with library_errors("the tokenizer"):
        encoded = tokenizer(texts, padding=True, return_tensors="pt")
    length, limit = encoded["input_ids"].shape[1], tokenizer.model_max_length
    if length > limit:
        raise QueryError(f"a text has {length} tokens; at most {limit} are understood, shorten it")
    if length < at_least:
        encoded = tokenizer(texts, padding="max_length", max_length=at_least, return_tensors="pt")
    return encoded


__all__ = ["Prompts", "Unconditional"]
