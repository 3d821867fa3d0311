# SPDX-License-Identifier: Apache-2.0
"""What AudioLDM 2 saves work with changes nothing, or what was asked to change; and half precision with exact ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from rounding import assert_same
from tiny_audioldm2 import LOA_SIZE, TEXT_SIZE, tiny_components
from torch.utils._python_dispatch import TorchDispatchMode

from hubsep import AudioLDM2Pipeline, onednn
from hubsep.errors import QueryError
from hubsep.pipelines.audioldm2.attention import Contexts, as_mask, constant_contexts
from hubsep.pipelines.audioldm2.bfloat16 import products as audioldm2_products
from hubsep.pipelines.audioldm2.bfloat16.products import Convolution, Doubled, Product, attended
from hubsep.pipelines.audioldm2.bfloat16.unet import on_processor
from hubsep.pipelines.audioldm2.bfloat16.vocoder import decoded, vocoded
from hubsep.pipelines.audioldm2.conditions import Conditions
from hubsep.pipelines.audioldm2.sampling import Guide


CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(
    not onednn.available(torch.bfloat16), reason="oneDNN has no bfloat16 on this processor"
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = AudioLDM2Pipeline(**tiny_components())
    made.set_progress_bar_config(disable=True)
    return made


def asked(unet: Any) -> tuple[list[int], list[Any]]:
    """Sizes of the batches that cross attention computes queries of, and the hooks that fill them."""
    sizes: list[int] = []
    layers = [module.to_q for name, module in unet.named_modules() if name.endswith("attn2")]
    hooks = [layer.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0]))) for layer in layers]
    return sizes, hooks


@torch.no_grad()
def test_attention_to_what_is_the_same_for_every_place(pipe: Any) -> None:
    told = Conditions(torch.randn(2, 8, LOA_SIZE), torch.randn(2, 5, TEXT_SIZE), torch.ones(2, 5))
    told.weights[1, 3:] = 0
    away = Conditions(torch.zeros(2, 8, LOA_SIZE), torch.randn(1, 1, TEXT_SIZE).expand(2, -1, -1), torch.ones(2, 1))
    latents, step = torch.randn(2, 4, 32, 4), torch.tensor(500)
    guide = Guide(told, away, 3.5, (0.0, 1.0))
    expected = guide.predict(pipe.unet, latents, step, 0.0)  # diffusers' own attention, with a mask
    sizes, hooks = asked(pipe.unet)
    try:
        with constant_contexts(pipe.unet, guide.contexts()):
            for _ in range(2):
                found = guide.predict(pipe.unet, latents, step, 0.0)
                assert_same(found, expected, terms=64, layers=40)
    finally:
        for hook in hooks:
            hook.remove()
    # of four items two are led away from: they ask only where the context is the sound itself
    assert set(sizes) == {2, 4}
    assert sizes.count(2) == 2 * sizes.count(4)


def test_which_items_are_settled() -> None:
    states = torch.randn(4, 3, 2)
    states[0] = 1.0
    states[1, 1] = states[1, 0]
    weights = torch.tensor([[1.0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1]])
    contexts = Contexts()
    contexts.add(states, weights)
    found = contexts.find(states)
    assert found is not None
    assert found.settled == 3
    assert found.first.tolist() == [0, 0, 2, 0]
    assert contexts.find(states.clone()) is None
    contexts.add(states[3:].clone())
    assert contexts._known[-1].settled == 0
    assert as_mask(torch.ones(1, 3)) is None


@pytest.mark.slow
def test_what_guidance_adds_can_be_kept(pipe: Any) -> None:
    sizes: list[int] = []
    given: dict[str, Any] = {"output_type": "latent", "num_inference_steps": 7}
    hook = pipe.unet.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    try:
        kept = pipe("rain", generator=seeded(), guidance_every=2, **given).audios
        pipe("rain", guidance_every=3, guidance_interval=(0.3, 0.9), **given)
    finally:
        hook.remove()
    assert sizes == [2, 1, 2, 1, 2, 1, 2, *[1, 1, 2, 2, 1, 1, 1]]
    whole = pipe("rain", generator=seeded(), **given).audios
    without = pipe("rain", generator=seeded(), guidance_scale=1.0, **given).audios
    assert torch.equal(pipe("rain", generator=seeded(), guidance_every=1, **given).audios, whole)
    # weights are random, so what guidance adds changes much from one of the seven steps to the next
    assert (kept - whole).norm() < 0.6 * (without - whole).norm()
    for every in (0, 1.5, True):
        with pytest.raises(QueryError, match="guidance_every must be"):
            pipe("rain", guidance_every=every)


@torch.no_grad()
def test_half_precision_with_float32_at_the_ends(pipe: Any) -> None:
    halves = tiny_components()
    vae, vocoder = (halves[name].to(torch.bfloat16) for name in ("vae", "vocoder"))
    latents, mel = torch.randn(1, 4, 32, 4, generator=seeded()), torch.randn(1, 64, 8, generator=seeded())

    def error(found: torch.Tensor, exact: torch.Tensor) -> float:
        assert found.dtype == torch.float32
        return float((found - exact).norm() / exact.norm())

    spectrum = decoded(pipe.vae, latents)
    assert torch.equal(spectrum, pipe.vae.decode(latents).sample)
    last = vae.decoder.conv_out
    assert error(decoded(vae, latents), spectrum) < error(vae.decode(latents.bfloat16()).sample.float(), spectrum)
    assert error(decoded(vae, latents), spectrum) < 0.02
    assert vae.decoder.conv_out is last
    waveform = vocoded(pipe.vocoder, mel)
    assert torch.equal(waveform, pipe.vocoder(mel))
    assert error(vocoded(vocoder, mel), waveform) < error(vocoder(mel.bfloat16()).float(), waveform)
    assert error(vocoded(vocoder, mel), waveform) < 0.02


class Counted(AttnProcessor2_0):
    """A processor that a user puts in."""

    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        type(self).calls += 1
        return super().__call__(*args, **kwargs)


class Wrapped(torch.nn.Module):
    """A layer as an adapter wraps it."""

    def __init__(self, base: Any):
        super().__init__()
        self.base, self.calls = base, 0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        found: torch.Tensor = 1.5 * self.base(states)
        return found


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


@needs_bfloat16
@torch.no_grad()
def test_bfloat16_on_a_processor_is_as_exact_as_diffusers() -> None:
    full, half = tiny_components()["unet"], tiny_components()["unet"].bfloat16()
    told = Conditions(torch.randn(1, 8, LOA_SIZE), torch.randn(1, 5, TEXT_SIZE), torch.ones(1, 5))
    away = Conditions(torch.zeros_like(told.loa), told.text[:, :1], torch.ones(1, 1))
    latents, step = torch.randn(1, 4, 256, 4, generator=seeded()), torch.tensor(500)
    exact = Guide(told, away, 3.5, (0.0, 1.0)).predict(full, latents, step, 0.0)
    guide = Guide(told.to(CPU, torch.bfloat16), away.to(CPU, torch.bfloat16), 3.5, (0.0, 1.0))
    plain = guide.predict(half, latents, step, 0.0)
    before = {name: weight.clone() for name, weight in half.state_dict().items()}
    for processor, calls in ((AttnProcessor2_0(), 0), (Counted(), 3)):
        half.set_attn_processor(processor)
        Counted.calls = 0
        with constant_contexts(half, guide.contexts()), on_processor(half, CPU):
            for _ in range(2):  # the second time with what was laid out in the first
                found = guide.predict(half, latents, step, 0.0)
        assert bool(Counted.calls) == bool(calls)
        assert distance(found, exact) < 1.2 * distance(plain, exact)
    # nothing of it is left, and the model was not changed
    assert not any("forward" in module.__dict__ for module in half.modules())
    assert all(torch.equal(weight, before[name]) for name, weight in half.state_dict().items())
    assert torch.equal(guide.predict(half, latents, step, 0.0), plain)


@needs_bfloat16
@torch.no_grad()
def test_layers_that_are_wrapped_or_hooked_are_called() -> None:
    half = tiny_components()["unet"].bfloat16()
    block = half.down_blocks[1].attentions[0].transformer_blocks[0]
    block.attn1.to_q, block.attn1.to_out[0] = Wrapped(block.attn1.to_q), Wrapped(block.attn1.to_out[0])
    block.ff.net[0].proj, block.ff.net[2] = Wrapped(block.ff.net[0].proj), Wrapped(block.ff.net[2])
    hooked: list[int] = []
    block.attn2.to_out[0].register_forward_hook(lambda *_: hooked.append(1))
    given = torch.randn(1, 4, 256, 4, generator=seeded()).bfloat16(), torch.tensor(500)
    states = torch.randn(1, 8, LOA_SIZE, generator=seeded()).bfloat16()
    text = torch.randn(1, 5, TEXT_SIZE, generator=seeded()).bfloat16()

    def called() -> torch.Tensor:
        found: torch.Tensor = half(*given, states, encoder_hidden_states_1=text).sample
        return found

    expected = called()
    with on_processor(half, CPU):
        assert distance(called(), expected) < 0.02
    assert [module.calls for module in half.modules() if isinstance(module, Wrapped)] == [2] * 4
    assert len(hooked) == 2


class Operators(TorchDispatchMode):
    """Writes down which operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def operators(run: Any) -> set[str]:
    with Operators() as seen:
        run()
    return seen.names


BINARY = {"mkldnn._linear_pointwise.binary", "mkldnn._convolution_pointwise.binary"}
PLAIN = "aten.convolution.default"


@needs_bfloat16
@torch.no_grad()
def test_which_operators_do_the_work() -> None:
    parts = {name: tiny_components()[name].bfloat16() for name in ("unet", "vae", "vocoder")}
    latents, mel = torch.randn(1, 4, 256, 4, generator=seeded()), torch.randn(1, 64, 8, generator=seeded())
    states = torch.randn(1, 8, LOA_SIZE).bfloat16(), torch.randn(1, 5, TEXT_SIZE).bfloat16()

    def unet() -> None:
        with on_processor(parts["unet"], CPU):
            parts["unet"](latents.bfloat16(), torch.tensor(500), states[0], encoder_hidden_states_1=states[1])

    found = operators(unet)
    assert found >= BINARY
    assert PLAIN not in found
    # what torch prints tensors with: an operator called by its packet alone formats its arguments for an error that
    # it then swallows, 9 ms in a step of the published size
    assert not {name for name in found if "isfinite" in name or "masked_select" in name}
    found = operators(lambda: decoded(parts["vae"], latents))
    assert found >= BINARY
    assert not {name for name in found if "scaled_dot_product" in name}
    found = operators(lambda: vocoded(parts["vocoder"], mel))
    assert "mkldnn._convolution_pointwise.binary" in found
    parts["vocoder"].resblocks[0].convs1[0].register_forward_hook(lambda *_: None)
    assert "mkldnn._convolution_pointwise.binary" not in operators(lambda: vocoded(parts["vocoder"], mel))


@torch.no_grad()
def test_where_the_unet_runs_as_it_is(pipe: Any) -> None:
    half = tiny_components()["unet"].bfloat16()
    for unet, device in ((pipe.unet, CPU), (half, torch.device("cuda"))):
        with on_processor(unet, device):
            assert not any("forward" in module.__dict__ for module in unet.modules())
    with torch.enable_grad(), on_processor(half, CPU):
        assert not any("forward" in module.__dict__ for module in half.modules())


@needs_bfloat16
@torch.no_grad()
@pytest.mark.parametrize(("sharpness", "most"), [(1.0, 0.01), (8.0, 0.03)])  # bfloat16 has steps of 0.0078
@pytest.mark.parametrize("scores", [2**22, 2 * 600 * 600, 250 * 600])
def test_attention_group_by_group(sharpness: float, most: float, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audioldm2_products, "SCORES", scores)  # all at once, by two heads, by rows of one
    queries, keys, values = torch.randn(3, 1, 600, 3, 32, generator=seeded()).bfloat16()
    queries *= sharpness
    exact = (part.double().transpose(1, 2) for part in (queries, keys, values))
    asked, told, told_of = exact
    expected = F.scaled_dot_product_attention(asked, told, told_of, scale=0.2).transpose(1, 2).flatten(2)
    assert distance(attended(queries, keys, values, 0.2), expected) < most


@needs_bfloat16
@torch.no_grad()
@pytest.mark.parametrize("pack", [True, False])
def test_products_with_what_follows_them(pack: bool) -> None:
    layer, states = torch.nn.Linear(48, 64).bfloat16(), torch.randn(2, 40, 48, generator=seeded()).bfloat16()
    other, exact = torch.randn(2, 40, 64, generator=seeded()).bfloat16(), layer(states).float()
    product = Product(layer, pack)
    assert distance(product(states), exact) < 0.005
    assert distance(product(states, plus=other), exact + other) < 0.005
    assert distance(product(states, times=other), exact * other) < 0.005
    assert distance(product(states, after="gelu"), F.gelu(exact)) < 0.005
    layer.weight = torch.nn.Parameter(2 * layer.weight)  # as loading on demand replaces them
    assert distance(product(states), layer(states).float()) < 0.005
    for bands in (2, 4):
        convolution = torch.nn.Conv2d(32, 48, 3, padding=1).bfloat16()
        maps, added = torch.randn(2, 32, 9, bands).bfloat16(), torch.randn(2, 48, 9, bands).bfloat16()
        found = Convolution(convolution, pack)(maps, plus=added)
        assert distance(found, convolution.float()(maps.float()) + added) < 0.005
    convolution = torch.nn.Conv2d(32, 48, 3, padding=1).bfloat16()
    found, maps = Doubled(convolution)(maps), F.interpolate(maps.float(), scale_factor=2.0)
    assert distance(found, convolution.float()(maps)) < 0.005
