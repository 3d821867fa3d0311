# SPDX-License-Identifier: Apache-2.0
"""What every separation model promises.

A system's test file says `class TestX(ModelPromises): build = staticmethod(tiny_x)`, where `tiny_x()` returns
`(model, conditions)`: a seeded tiny model and the keyword arguments its `forward` needs beside the mixture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rounding import TINY_MODEL, assert_same
from torch import Tensor

from hubsep.auto import AutoModelForAudioSeparation
from hubsep.errors import AudioError, CheckpointError


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Seeded noise of level 0.1."""
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class ModelPromises:
    """Inherit, and set `build`."""

    build: Any
    samples = 4_001  # no multiple of any hop
    bf16_si_sdr = 15.0  # random weights amplify rounding; trained ones are measured in benchmarks/

    @pytest.fixture
    def model(self) -> Any:
        return self.build()[0].eval()

    @pytest.fixture
    def conditions(self) -> dict[str, Any]:
        return self.build()[1]

    @pytest.fixture
    def mixture(self, model: Any) -> Tensor:
        return noise(2, model.config.num_channels, self.samples)

    @torch.no_grad()
    def test_sources_are_as_long_as_the_mixture(self, model: Any, conditions: dict[str, Any]):
        for samples in (model.config.minimum_samples, 4_000, 4_001, 5_119):
            mixture = noise(2, model.config.num_channels, samples)
            sources = model(mixture, **conditions).sources
            assert sources.shape[0] == 2
            assert sources.shape[2:] == mixture.shape[1:]
            assert sources.dtype == torch.float32
            assert torch.isfinite(sources).all()

    @torch.no_grad()
    def test_a_batch_is_its_items_in_any_order(self, model: Any, conditions: dict[str, Any], mixture: Tensor):
        whole = model(mixture, **conditions).sources
        for i in range(len(mixture)):
            alone = model(mixture[i : i + 1], **conditions).sources
            assert_same(alone[0], whole[i], **TINY_MODEL, peak=mixture.abs().max().item())
        assert_same(
            model(mixture.flip(0), **conditions).sources.flip(0), whole, **TINY_MODEL, peak=mixture.abs().max().item()
        )

    @torch.no_grad()
    def test_the_same_call_gives_the_same_bits(self, model: Any, conditions: dict[str, Any], mixture: Tensor):
        state = torch.get_rng_state()
        assert torch.equal(model(mixture, **conditions).sources, model(mixture, **conditions).sources)
        assert torch.equal(torch.get_rng_state(), state)

    @torch.no_grad()
    def test_keywords_have_an_effect_or_are_refused(self, model: Any, conditions: dict[str, Any], mixture: Tensor):
        whole = model(mixture, **conditions)
        plain = model(mixture, **conditions, return_dict=False)
        assert isinstance(plain, tuple)
        assert len(plain) == len(whole.to_tuple())
        assert torch.equal(plain[0], whole.sources)
        quiet = {"output_hidden_states": False, "output_attentions": None, "num_items_in_batch": 2}
        assert torch.equal(model(mixture, **conditions, **quiet, return_dict=True).sources, whole.sources)
        for wrong, says in (
            ({"lables": whole.sources}, "takes no 'lables', .*Did you mean labels"),
            ({"output_hidden_states": True}, "keeps none; register a forward hook"),
            ({"output_attentions": True}, "keeps none"),
            ({"chunk_length_s": 10}, "takes no 'chunk_length_s', but input_values"),
        ):
            with pytest.raises(TypeError, match=says):
                model(mixture, **conditions, **wrong)

    @torch.no_grad()
    def test_a_saved_model_comes_back_whole(
        self, model: Any, conditions: dict[str, Any], mixture: Tensor, tmp_path: Path
    ):
        model.save_pretrained(tmp_path / "saved")
        again = AutoModelForAudioSeparation.from_pretrained(tmp_path / "saved")
        assert type(again) is type(model)
        before, after = (m.config.to_json_string(use_diff=False).splitlines() for m in (model, again))
        set_on_loading = ('"dtype"', '"_name_or_path"')
        assert [line for line in before if line.strip().split(":")[0] not in set_on_loading] == [
            line for line in after if line.strip().split(":")[0] not in set_on_loading
        ]
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name
        # weights mapped from a file may lie at odd addresses, which changes the last bit of a convolution
        assert_same(
            again(mixture, **conditions).sources,
            model(mixture, **conditions).sources,
            **TINY_MODEL,
            peak=mixture.abs().max().item(),
        )

    @torch.no_grad()
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, model: Any, conditions: dict[str, Any], mixture: Tensor, dtype: torch.dtype):
        reference = model(mixture, **conditions).sources
        sources = model.to(dtype)(mixture, **conditions).sources
        assert sources.dtype == torch.float32
        error = (sources - reference).square().sum() / reference.square().sum()
        assert -10 * torch.log10(error) > self.bf16_si_sdr
        loud = torch.ones_like(mixture)
        assert torch.isfinite(model(loud, **conditions).sources).all()

    @torch.no_grad()
    def test_silence_stays_silent(self, model: Any, conditions: dict[str, Any], mixture: Tensor):
        assert model(torch.zeros_like(mixture), **conditions).sources.abs().max() < 1e-4

    def test_it_learns(self, model: Any, conditions: dict[str, Any], mixture: Tensor):
        labels = model(mixture, **conditions).sources.detach() * 0.5 + noise(1, seed=1)
        model.train()
        # steps as large for every system, whatever the size of its gradients: the loss falls by 0.3 % at least
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        losses = []
        for _ in range(4):
            loss = model(mixture, labels=labels, **conditions).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0]

    def test_every_trainable_parameter_gets_a_gradient(self, model: Any, conditions: dict[str, Any], mixture: Tensor):
        model.train()
        sources = model(mixture, **conditions).sources
        model(mixture, labels=torch.zeros_like(sources) + noise(1), **conditions).loss.backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []

    def test_a_missing_weight_is_an_error(self, model: Any, tmp_path: Path):
        from safetensors.torch import load_file, save_file

        model.save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        name = sorted(weights)[0]
        del weights[name]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / "manifest.json").unlink(missing_ok=True)
        with pytest.raises(CheckpointError, match="missing"):
            AutoModelForAudioSeparation.from_pretrained(tmp_path)

    def test_wrong_waveforms_are_refused(self, model: Any, conditions: dict[str, Any]):
        channels = model.config.num_channels
        with pytest.raises(AudioError, match="samples"):
            model(noise(1, channels, model.config.minimum_samples - 1), **conditions)
        for wrong in (noise(channels, 4_000), noise(1, channels + 1, 4_000)):
            with pytest.raises(AudioError, match="input_values must be"):
                model(wrong, **conditions)
