# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2 on a tiny folder as published: it makes what diffusers' pipeline makes where that runs, and runs.

Waveforms differ by the order of sums at most (`CLOSE`); the requirement is 2e-4.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from rounding import assert_same
from tiny_audioldm2 import (
    CLOSE,
    LOA_SIZE,
    SAMPLES,
    SECONDS,
    diffusers_peer,
    published_folder,
    tiny_audio_mae,
    tiny_components,
)

from hubsep import AudioLDM2Pipeline
from hubsep.errors import AudioError, CheckpointError, QueryError


LIKE_DIFFUSERS: dict[str, Any] = {"unconditional": "generated", "solver": "scheduler"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_folder(tmp_path_factory.mktemp("published") / "audioldm2")


@pytest.fixture(scope="module")
def pipe(published: Path) -> Any:
    return quiet(AudioLDM2Pipeline.from_pretrained(published))


@pytest.fixture(scope="module")
def peer() -> Any:
    return diffusers_peer(tiny_components())


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published, tmp_path / "audioldm2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "negatives", "guidance"),
    [
        (["rain"], None, 3.5),
        (["a dog barks", "rain"], None, 3.5),
        (["a dog", "rain"], ["hum", "wind"], 2.5),
        (["rain"], None, 1.0),
    ],
)
def test_every_prompt_of_a_batch_equals_diffusers_alone(
    pipe: Any, peer: Any, prompts: list[str], negatives: list[str] | None, guidance: float
) -> None:
    given = {"num_inference_steps": 3, "audio_length_in_s": SECONDS, "guidance_scale": guidance}
    options = LIKE_DIFFUSERS if guidance > 1 else {"solver": "scheduler"}
    seeds = [seeded(index) for index in range(len(prompts))]
    ours = pipe(prompts, negative_prompt=negatives, generator=seeds, **given, **options)
    assert ours.sampling_rate == 16_000
    for index, prompt in enumerate(prompts):
        away = negatives and negatives[index]
        theirs = peer(prompt, negative_prompt=away, generator=seeded(index), **given).audios[0]
        assert ours.audios[index].shape == theirs.shape
        assert np.abs(theirs).max() > 0.5
        assert np.abs(ours.audios[index] - theirs).max() < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"unconditional": "generated"},
        {"negative_prompt": "hum"},
        {"negative_prompt": "a humming fan and wind"},
        {"num_waveforms_per_prompt": 2},
        {"seconds": 2.5 * SECONDS},
        {"guidance_scale": 1.0},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_prompt_sounds_the_same_in_every_company(pipe: Any, options: dict[str, Any]) -> None:
    """Beside a longer prompt, where texts are padded, and whatever is asked for besides."""
    prompts, times = ["rain", "a dog barks in the yard", "hail"], options.get("num_waveforms_per_prompt", 1)

    def made(texts: list[str], first: int) -> Any:
        seeds = [seeded(first * times + index) for index in range(len(texts) * times)]
        return pipe(texts, generator=seeds, num_inference_steps=3, **options).audios

    together = made(prompts, 0)
    for index, prompt in enumerate(prompts):
        alone = made([prompt], index)
        assert np.abs(alone).max() > 0.1
        assert np.abs(together[index * times : (index + 1) * times] - alone).max() < CLOSE


@pytest.mark.slow
def test_equals_diffusers_with_other_solvers_lengths_and_noise(pipe: Any, peer: Any) -> None:
    euler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    before = pipe.scheduler
    try:
        for scheduler in (euler, before):
            pipe.scheduler = peer.scheduler = scheduler
            given = {"num_inference_steps": 3, "audio_length_in_s": 0.0517, "latents": torch.randn(1, 4, 21, 4)}
            theirs = peer("rain", **given).audios
            ours = pipe("rain", **given, **LIKE_DIFFUSERS).audios
            assert ours.shape == theirs.shape == (1, 827)
            assert np.abs(ours - theirs).max() < CLOSE
    finally:
        pipe.scheduler = peer.scheduler = before


def test_speech_equals_diffusers() -> None:
    components = tiny_components(speech=True)
    speaker, peer = quiet(AudioLDM2Pipeline(**components)), diffusers_peer(components)
    given = {"transcription": "a dog", "max_new_tokens": 16, "num_inference_steps": 3, "audio_length_in_s": SECONDS}
    theirs = peer("a woman speaks", generator=seeded(), **given).audios
    ours = speaker("a woman speaks", generator=seeded(), **given, **LIKE_DIFFUSERS).audios
    assert np.abs(ours - theirs).max() < CLOSE
    assert np.abs(speaker("a woman speaks", generator=seeded(), **given).audios - theirs).max() > 1e-3  # zeros
    with pytest.raises(QueryError, match="pass transcription"):
        speaker("a woman speaks")
    with pytest.raises(QueryError, match="more than the 23 phonemes"):
        speaker("a woman speaks", transcription="a" * 24)


def test_gpt2_with_kept_keys_makes_what_it_makes_from_the_start(pipe: Any) -> None:
    embeds, mask = torch.randn(2, 7, LOA_SIZE), torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:6] = 0
    loa = pipe.generate_loa(embeds, mask, 6)
    whole = torch.cat([embeds, loa[:, :-1]], dim=1)
    mask = torch.cat([mask, torch.ones(2, 5, dtype=torch.long)], dim=1)
    places = mask.cumsum(dim=1) - 1
    with torch.no_grad():
        output = pipe.language_model(inputs_embeds=whole, attention_mask=mask, position_ids=places)
    again = output.last_hidden_state[:, 6:]
    assert_same(loa, again, terms=64, layers=6 * 12)  # six tokens one after the other, through two layers of six sums
    assert_same(pipe.generate_loa(embeds, mask[:, :7], 6, prefix=loa[:, :2]), loa, terms=64, layers=6 * 12)
    with pytest.raises(QueryError, match="more than the 128 positions"):
        pipe.generate_loa(embeds, mask[:, :7], 122)


def test_the_unconditional_loa_is_zeros_unless_asked_for(pipe: Any) -> None:
    positive = pipe.encode_prompt(["a dog", "rain"])
    zeros = pipe.guidance_of(positive, None, None)
    assert not zeros.loa.any()
    assert zeros.text.shape[:2] == (2, 1)  # the empty text is one token
    generated = pipe.guidance_of(positive, None, "hum")
    assert generated.loa.shape == positive.loa.shape
    assert generated.loa.abs().min() > 0
    with pytest.raises(QueryError, match="no effect"):
        pipe("rain", negative_prompt="hum", unconditional="zeros")
    with pytest.raises(QueryError, match="2 prompts and 3 negative"):
        pipe(["rain", "a dog"], negative_prompt=["a", "b", "c"])


@pytest.mark.slow
def test_candidates_are_ranked_among_those_of_their_prompt(pipe: Any) -> None:
    prompts = ["hail in the yard", "rain"]
    given: dict[str, Any] = {"num_inference_steps": 2, "solver": "scheduler", "guidance_scale": 1.0}
    made = pipe(prompts, num_waveforms_per_prompt=3, generator=[seeded(index) for index in range(6)], **given)
    assert made.scores.shape == (2, 3)
    assert (np.diff(made.scores, axis=1) <= 0).all()
    alone = [pipe(prompts[index // 3], generator=seeded(index), **given).audios[0] for index in range(6)]
    for row, prompt in enumerate(prompts):
        own = np.stack(alone[3 * row : 3 * row + 3])
        scores = pipe.score_waveforms([prompt], torch.from_numpy(own))[0].numpy()
        order = np.argsort(-scores)
        assert np.abs(made.scores[row] - scores[order]).max() < 1e-5
        assert np.abs(made.audios[3 * row : 3 * row + 3] - own[order]).max() < CLOSE


def test_embeddings_instead_of_a_prompt(pipe: Any) -> None:
    positive = pipe.encode_prompt("a dog")
    negative = pipe.guidance_of(positive, "generated", "hum")
    given: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    made = pipe(
        prompt_embeds=positive.text,
        attention_mask=positive.weights,
        generated_prompt_embeds=positive.loa,
        negative_prompt_embeds=negative.text,
        negative_attention_mask=negative.weights,
        negative_generated_prompt_embeds=negative.loa,
        generator=seeded(),
        **given,
    ).audios
    told = pipe("a dog", negative_prompt="hum", generator=seeded(), **given).audios
    assert torch.equal(made, told)
    with pytest.raises(QueryError, match="go together"):
        pipe(prompt_embeds=positive.text)
    with pytest.raises(QueryError, match="pass a prompt"):
        pipe()


def test_outputs_callbacks_and_interruption(pipe: Any) -> None:
    seen: list[tuple[int, int]] = []

    def stop_after_two(asked: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((index, int(timestep)))
        asked._interrupt = index == 1
        return {"latents": torch.zeros_like(tensors["latents"])}

    audios, scores = pipe(
        "rain", num_inference_steps=5, callback_on_step_end=stop_after_two, output_type="latent", return_dict=False
    )
    assert [index for index, _ in seen] == [0, 1]
    assert not audios.any()
    assert scores is None
    assert tuple(audios.shape) == (1, 4, 32, 4)
    assert isinstance(pipe("rain", num_inference_steps=1, output_type="pt").audios, torch.Tensor)


def test_the_default_solver(pipe: Any) -> None:
    steps: list[int] = []
    pipe("rain", callback_on_step_end=lambda *given: steps.append(given[1]), output_type="latent")
    assert steps == list(range(25))
    from hubsep.pipelines.audioldm2.sampling import Sampling

    assert isinstance(pipe.solver_of(Sampling())[0], diffusers.DPMSolverMultistepScheduler)
    assert pipe.solver_of(Sampling(solver="scheduler"))[1] == 200


class Gaussian(torch.nn.Module):
    """What a perfect network predicts where sounds are normal with deviation 0.5: solvers can be compared on it."""

    dtype, device = torch.float32, torch.device("cpu")
    config = diffusers.configuration_utils.FrozenDict(in_channels=4, sample_size=8)
    attn_processors: dict[str, Any] = {}

    def __init__(self, scheduler: Any):
        super().__init__()
        self.kept = scheduler.alphas_cumprod

    def set_attn_processor(self, processors: Any) -> None:
        del processors

    def forward(self, latents: Any, timestep: Any, **conditions: Any) -> Any:
        kept = self.kept[int(timestep)]
        return ((1 - kept) ** 0.5 * latents / (0.25 * kept + 1 - kept),)


def test_few_steps_are_enough_where_the_answer_is_known(pipe: Any) -> None:
    """Where sounds are normal, noise only has to be scaled: 25 steps do that as well as 200 of DDIM."""
    ideal = quiet(AudioLDM2Pipeline(**{**pipe.components, "unet": Gaussian(pipe.scheduler)}))
    latents = torch.randn(1, 4, 8, 4, generator=seeded())
    conditions = pipe.encode_prompt("rain")
    from hubsep.pipelines.audioldm2.sampling import Sampling

    def error(**settings: Any) -> float:
        made = ideal.sample(conditions, None, Sampling(guidance_scale=1.0, **settings), latents)
        return float((made - 0.5 * latents).square().mean().sqrt())

    ddim, few = error(solver="scheduler", num_inference_steps=200), error()
    assert few < 1.2 * ddim < 0.015  # 0.0044 and 0.0042, for a deviation of 0.5
    assert error(solver="scheduler", num_inference_steps=25) > 5 * few


def test_guidance_can_be_left_out_of_some_steps(pipe: Any) -> None:
    sizes: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    try:
        pipe("rain", num_inference_steps=5, guidance_interval=(0.2, 0.8), output_type="latent")
    finally:
        hook.remove()
    assert sizes == [1, 2, 2, 2, 1]


def test_prompts_and_settings_that_are_refused(pipe: Any) -> None:
    with pytest.raises(QueryError, match=r"has 6[45] tokens; at most"):
        pipe("a" * 63)
    with pytest.raises(QueryError, match="takes no transcription"):
        pipe("rain", transcription="hello")
    with pytest.raises(QueryError, match="a prompt is a text"):
        pipe([])
    with pytest.raises(QueryError, match="num_inference_steps must be"):
        pipe("rain", num_inference_steps=0)
    with pytest.raises(QueryError, match="solver must be"):
        pipe("rain", solver="euler")
    with pytest.raises(QueryError, match="output_type"):
        pipe("rain", output_type="mp3")
    with pytest.raises(QueryError, match="2 sounds to make and 1 generators"):
        pipe(["rain", "a dog"], generator=[seeded()])
    with pytest.raises(QueryError, match="latents must be"):
        pipe("rain", latents=torch.zeros(1, 4, 31, 4))
    for seconds in (0.0, float("nan"), True, "1"):
        with pytest.raises(AudioError, match="a length must be"):
            pipe("rain", seconds=seconds)


def test_attention_heads_of_the_original(published: Path, pipe: Any) -> None:
    original = quiet(AudioLDM2Pipeline.from_pretrained(published, attention_heads="original"))
    attention = [m for m in original.unet.modules() if type(m).__name__ == "Attention"]
    assert {module.inner_dim // module.heads for module in attention} == {32}
    assert {module.heads for module in pipe.unet.modules() if type(module).__name__ == "Attention"} == {8}
    assert original.unet.config.attention_head_dim == [1, 2]
    given: dict[str, Any] = {"num_inference_steps": 2, "generator": seeded()}
    made = original("rain", **given).audios
    assert np.abs(made - pipe("rain", num_inference_steps=2, generator=seeded()).audios).max() > 1e-4


def test_saved_folder_makes_the_same_and_opens_in_diffusers(pipe: Any, tmp_path: Path) -> None:
    target = tmp_path / "saved"
    target.mkdir()
    (target / "README.md").write_text("my card")
    pipe.save_pretrained(target)
    again = quiet(AudioLDM2Pipeline.from_pretrained(target))
    given: dict[str, Any] = {"num_inference_steps": 2, "solver": "scheduler"}
    made, remade = (each("rain", generator=seeded(), **given).audios for each in (pipe, again))
    assert np.abs(made - remade).max() < CLOSE
    assert (target / "README.md").read_text() == "my card"
    index = json.loads((target / "model_index.json").read_text())
    assert index["language_model"] == ["transformers", "GPT2Model"]
    assert "_name_or_path" not in index
    theirs = diffusers.AudioLDM2Pipeline.from_pretrained(target)
    assert type(theirs.language_model).__name__ == "GPT2Model"


def test_saved_with_audio_mae(tmp_path: Path) -> None:
    pipe = quiet(AudioLDM2Pipeline(**tiny_components(), audio_mae=tiny_audio_mae()))
    pipe.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/model_index.json").read_text())["audio_mae"] == ["hubsep", "AudioMAEModel"]
    again = AudioLDM2Pipeline.from_pretrained(tmp_path / "saved")
    sound = torch.randn(800) * 0.1
    assert torch.equal(again.encode_loa(sound), pipe.encode_loa(sound))
    assert AudioLDM2Pipeline.from_pretrained(tmp_path / "saved", audio_mae=None).audio_mae is None


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_folders_that_are_refused(folder: Path) -> None:
    index = folder / "model_index.json"
    kept = index.read_text()
    cases = [
        (lambda c: c.update(_class_name="StableDiffusionPipeline"), "this class loads AudioLDM2Pipeline"),
        (lambda c: c.update(unet=["os", "system"]), "unet is"),
        (lambda c: c.update(language_model=["transformers", "AutoModel"]), "language_model is"),
        (lambda c: c.update(vae=None), "vae must be"),
        (lambda c: c.update(scheduler=["diffusers", "DiffusionPipeline"]), "scheduler is"),
        (lambda c: c.update(audio_mae=["hubsep", "AudioMAEModel"]), "no such folder"),
    ]
    for change, message in cases:
        index.write_text(kept)
        edit(index, change)
        with pytest.raises(CheckpointError, match=message):
            AudioLDM2Pipeline.from_pretrained(folder)
    index.write_text(kept)
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        AudioLDM2Pipeline.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(CheckpointError, match="quantization_config is not an argument"):
        AudioLDM2Pipeline.from_pretrained(folder, quantization_config=1)


def test_weights_that_do_not_fit_are_refused_and_pickles_never_opened(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = folder / "projection_model/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "stray": torch.zeros(1)}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"projection_model.*unexpected"):
        AudioLDM2Pipeline.from_pretrained(folder)
    save_file({**tensors, "sos_embed": torch.full_like(tensors["sos_embed"], torch.nan)}, weights)
    with pytest.raises(CheckpointError, match="NaN"):
        AudioLDM2Pipeline.from_pretrained(folder)
    weights.unlink()
    torch.save(tensors, weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="projection_model' cannot be loaded"):
        AudioLDM2Pipeline.from_pretrained(folder)


def needs_attention_in_bfloat16() -> None:
    """Skips where torch's own fails: told to do without AVX-512 on a processor with AMX, it asks for it."""
    states = torch.zeros(1, 1, 64, 8, dtype=torch.bfloat16)
    try:
        torch.nn.functional.scaled_dot_product_attention(states, states, states)
    except RuntimeError as error:
        pytest.skip(f"torch cannot attend in bfloat16 here: {error}")


def test_precisions_and_devices(published: Path, pipe: Any) -> None:
    needs_attention_in_bfloat16()
    half = quiet(AudioLDM2Pipeline.from_pretrained(published, dtype=torch.bfloat16, device_map="cpu"))
    assert {half.unet.dtype, half.text_encoder_2.dtype, half.language_model.dtype} == {torch.bfloat16}
    assert set(half.hf_device_map.values()) == {"cpu"}
    given: dict[str, Any] = {"num_inference_steps": 2, "seconds": SECONDS}
    made = half("rain", generator=seeded(), num_waveforms_per_prompt=2, **given)
    assert made.audios.dtype == np.float32
    assert made.audios.shape == (2, SAMPLES)
    latents = half("rain", generator=seeded(), output_type="latent", **given).audios
    exact = pipe("rain", generator=seeded(), output_type="latent", **given).audios
    assert latents.dtype == torch.float32
    assert (latents - exact).norm() / exact.norm() < 0.05  # the noise is the same


def test_offloading_twice(pipe: Any) -> None:
    offloaded = quiet(AudioLDM2Pipeline(**tiny_components()))
    offloaded.enable_model_cpu_offload(device="cpu")
    given: dict[str, Any] = {"num_inference_steps": 2, "num_waveforms_per_prompt": 2, "solver": "scheduler"}
    expected = pipe("rain", generator=seeded(), **given).audios
    for _ in range(2):
        assert np.abs(offloaded("rain", generator=seeded(), **given).audios - expected).max() < CLOSE


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload", "to"])
def test_on_a_gpu(pipe: Any, way: str) -> None:
    there = quiet(AudioLDM2Pipeline(**tiny_components(), audio_mae=tiny_audio_mae()))
    there.to("cuda") if way == "to" else getattr(there, way)()
    given: dict[str, Any] = {"num_inference_steps": 2, "num_waveforms_per_prompt": 2, "solver": "scheduler"}
    expected = pipe("rain", generator=seeded(), **given).audios
    for _ in range(2):
        assert np.abs(there("rain", generator=seeded(), **given).audios - expected).max() < 1e-2
    assert there.vary(torch.randn(800) * 0.1, sampling_rate=16_000, num_inference_steps=2).audios.shape == (1, 800)


@pytest.mark.gpu
def test_spread_over_gpus(published: Path) -> None:
    spread = quiet(AudioLDM2Pipeline.from_pretrained(published, device_map="balanced"))
    assert spread.hf_device_map["unet"].startswith("cuda")
    assert spread("rain", num_inference_steps=2).audios.shape == (1, SAMPLES)
