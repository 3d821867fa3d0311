# SPDX-License-Identifier: Apache-2.0
"""Training of AudioLDM 2's parts on made-up sounds: what each stage learns, resumes and hands on to the next."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounding import TINY_MODEL, assert_same, rounding
from safetensors.torch import load_file
from sounds import corpus
from stages_audioldm2 import (
    COMPONENTS,
    LOA,
    SCHEDULER,
    TOKENS,
    UNET,
    VAE,
    VOCODER,
    earlier_stages,
    recipe_of,
    run,
)  # fmt: skip
from tiny_audioldm2 import LOA_SIZE, published_folder, tiny_components

from hubsep import AudioLDM2Pipeline
from hubsep.cli import main
from hubsep.data.generation import Sound, SoundDataset, SoundSettings, caption, every_caption, heldout_sounds
from hubsep.data.mixing import ClipSampler
from hubsep.data.recordings import load_clips
from hubsep.errors import DataError
from hubsep.mel import mel_spectrogram
from hubsep.training.generators import assemble, autoencoder, diffusion, joint, loa, lora, text_encoders, vocoder
from hubsep.training.generators import stages as generation
from hubsep.training.recipe import load_recipe
from hubsep.training.separators.text_tower import Tower


RECIPES = Path(assemble.__file__).parents[1] / "recipes"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return earlier_stages(tmp_path_factory.mktemp("runs"))


def sounds(data: Path, views: int = 0, samples: int = 8_000) -> SoundDataset:
    sampler = ClipSampler(load_clips([data], 16_000), {})
    return SoundDataset(sampler, SoundSettings(16_000, samples, views), 20)


@pytest.mark.parametrize("views", [0, 2])
def test_a_sound_depends_on_its_number_alone(data: Path, views: int):
    first, again = sounds(data, views), sounds(data, views)
    items = [first[i]["waveform"] for i in range(20)]
    for i in reversed(range(20)):
        assert torch.equal(again[i]["waveform"], items[i])
        assert told(again.sound(i)) == told(first.sound(i))
    assert items[0].shape == (8_000,)
    # without offset, with the peak that the pipeline gives what it is played
    assert all(float(waveform.abs().max()) == pytest.approx(0.5, abs=1e-5) for waveform in items)
    assert all(abs(float(waveform.mean())) < 1e-6 for waveform in items)
    # with views, items of one seed are one excerpt
    assert len({first.sound(i).seed for i in range(20)}) == len({waveform.numpy().tobytes() for waveform in items})
    assert views or len({first.sound(i).seed for i in range(20)}) == 20
    with pytest.raises(IndexError):
        first[20]


def told(sound: Sound) -> tuple[str, str, str]:
    return sound.clip.path, sound.seed, sound.caption


def test_short_recordings_begin_early_and_words_are_the_labels(data: Path):
    items = sounds(data, samples=32_000)
    for i in range(10):
        waveform, sound = items[i]["waveform"].numpy(), items.sound(i)
        loud = np.abs(waveform - waveform[-1]) > 1e-4
        assert loud.argmax() < 0.3 * 16_000
        assert not loud[-8_000:].any()
        assert not {"remove", "extract", "isolate"} & set(sound.caption.split())
    held = heldout_sounds(items.sampler.tree["made up"]["rain"])
    assert any(word in held[0].caption for word in ("rain", "downpour", "shower", "drizzle"))


def learns(objective: generation.Objective, batch: dict[str, torch.Tensor], steps: int, rate: float) -> float:
    """By which factor the loss on one batch falls."""
    optimiser = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], rate)
    losses = []
    for _ in range(steps):
        torch.manual_seed(0)
        loss = objective(**batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses[-1] / losses[0]


@pytest.mark.slow
def test_the_autoencoder_and_the_vocoder_learn_one_batch(data: Path):
    recipe = recipe_of(autoencoder.AutoencoderRecipe, model=VAE)
    waveform = torch.stack([sounds(data, samples=recipe.samples)[i]["waveform"] for i in range(2)])
    mel = mel_spectrogram(waveform, recipe.mel)
    torch.manual_seed(0)
    objective = autoencoder.AutoencoderObjective(autoencoder.build_vae(recipe, Path()), 1e-4, 0.5)
    assert learns(objective, {"mel": mel[:, None]}, 20, 0.01) < 0.6
    made = vocoder.VocoderObjective(
        vocoder.build_vocoder(recipe_of(vocoder.VocoderRecipe, model=VOCODER), Path()), recipe.mel,
        recipe_of(vocoder.VocoderRecipe, adversarial_weight=0.0),
    )  # fmt: skip
    assert made.trained["vocoder"](mel).shape == waveform.shape
    assert learns(made, {"mel": mel, "waveform": waveform}, 10, 0.01) < 0.85


def test_one_loss_has_the_right_gradient_for_both_sides(data: Path):
    recipe = recipe_of(vocoder.VocoderRecipe, model=VOCODER, adversarial_weight=1.0)
    objective = vocoder.VocoderObjective(vocoder.build_vocoder(recipe, Path()), recipe.mel, recipe)
    real = sounds(data, samples=recipe.samples)[0]["waveform"][None]
    made = (0.1 * torch.randn_like(real)).requires_grad_()
    objective._adversarial(made, real).backward()
    assert made.grad is not None
    got = made.grad, [p.grad.clone() for p in objective.judges.parameters() if p.grad is not None]
    objective.zero_grad()
    wanted = torch.autograd.grad(-sum(judge(made).mean() for judge in objective.judges) / 2, made)[0]
    hinge = sum((1 - j(real)).relu().mean() + (1 + j(made.detach())).relu().mean() for j in objective.judges) / 2
    hinge.backward()
    torch.testing.assert_close(got[0], wanted)
    for found, parameter in zip(got[1], objective.judges.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)


@pytest.mark.slow
def test_a_killed_diffusion_run_goes_on_to_the_same_bits(data: Path, runs: Path, tmp_path: Path):
    for name in ("vae", "audiomae"):
        shutil.copytree(runs / name, tmp_path / name)
    fields = {"components": {"vae": "vae", "audio_mae": "audiomae"}, "model": UNET, "scheduler": SCHEDULER}
    whole = run(diffusion, diffusion.DiffusionRecipe, data, tmp_path / "whole", **fields)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for name in ("checkpoint-4", "model", "best"):
        shutil.rmtree(tmp_path / "resumed" / name)
    resumed = run(diffusion, diffusion.DiffusionRecipe, data, tmp_path / "resumed", **fields)
    file = "model/unet/diffusion_pytorch_model.safetensors"
    weights = [load_file(tmp_path / name / file) for name in ("whole", "resumed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert {**whole, "minutes": 0} == {**resumed, "minutes": 0}
    checkpoint = load_file(tmp_path / "whole" / "checkpoint-4" / "model.safetensors")
    assert all(name.startswith("trained.unet.") for name in checkpoint)


@pytest.fixture(scope="module")
def assembled(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("assembled") / "audioldm2"
    fields = {"components": COMPONENTS, "scheduler": SCHEDULER, "half": False}
    sizes = assemble.main(None, runs, output, **fields)
    assert sizes["megabytes"] == pytest.approx(sum(sizes.values()) - sizes["megabytes"], abs=0.02)
    return output


def test_the_assembled_folder_makes_audio(assembled: Path, runs: Path):
    pipe = AudioLDM2Pipeline.from_pretrained(assembled)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config["prediction_type"] == "v_prediction"
    result = pipe("rain", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert result.audios.shape == (1, 10_240)
    assert np.isfinite(result.audios).all()
    parts = {name: getattr(pipe, name) for name in COMPONENTS}
    wrong = recipe_of(diffusion.DiffusionRecipe, model={**UNET, "in_channels": 5, "out_channels": 5})
    parts["unet"] = diffusion.build_unet(wrong, Path())
    with pytest.raises(DataError, match="latent channels of vae and unet are 4 and 5"):
        assemble.check_sizes(parts)
    with pytest.raises(DataError, match=r"vae: .* does not exist; run its stage"):
        assemble.main(None, runs / "text", runs / "nothing")


def test_gpt2_is_trained_as_it_is_used(assembled: Path):
    """What padding does not change, and that the tokens made in training are the pipeline's."""
    pipe = AudioLDM2Pipeline.from_pretrained(assembled)
    recipe = recipe_of(joint.JointRecipe, **LOA)
    objective = loa.LoaObjective({name: getattr(pipe, name) for name in COMPONENTS}, recipe).eval()
    captions = loa.Captions(pipe.text_encoder, pipe.tokenizer, pipe.tokenizer_2, 48)
    items = [captions("rain"), captions("a dog barking")]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    read, mask, _ = objective.read(**batch)
    with torch.no_grad():
        made = objective.made(read, mask, TOKENS)
        for text, row in zip(("rain", "a dog barking"), made, strict=True):
            assert_same(row[None], pipe.encode_prompt(text).loa, **TINY_MODEL)
        assert_same(objective.taught(read, mask, made), made, **TINY_MODEL)


def test_words_are_hidden_exchanged_and_noisy_in_training_alone(assembled: Path):
    pipe = AudioLDM2Pipeline.from_pretrained(assembled)
    captions = loa.Captions(pipe.text_encoder, pipe.tokenizer, pipe.tokenizer_2, 48)
    parts = {name: getattr(pipe, name) for name in COMPONENTS}
    items = [captions("rain"), captions("a dog barking")]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    nothing = captions("")

    def read(training: bool = True, **fields: float) -> torch.Tensor:
        objective = loa.LoaObjective(parts, recipe_of(loa.LoaRecipe, **LOA, **fields), nothing)
        objective.train(training)
        with torch.no_grad():
            found: torch.Tensor = objective.read(**batch)[0]
        return found

    plain = read()
    hidden = read(hidden_words=1.0)
    assert torch.equal(hidden[0, 3:], hidden[1, 3:])  # words; what stands before them is CLAP's
    assert torch.equal(hidden[:, :3], plain[:, :3])
    assert not torch.equal(hidden, plain)
    torch.testing.assert_close(read(foreign_words=1.0)[:, 3:], plain.flip(0)[:, 3:], rtol=0, atol=0)
    noisy = read(embedding_noise=0.5)
    assert torch.equal(noisy[:, 3:], plain[:, 3:])
    assert not torch.equal(noisy[:, :3], plain[:, :3])
    everything = {"hidden_words": 1.0, "foreign_words": 1.0, "embedding_noise": 1.0}
    assert torch.equal(read(training=False, **everything), read(training=False))
    with pytest.raises(DataError, match=r"hidden_words is 0\.5, which needs the empty text"):
        loa.LoaObjective(parts, recipe_of(loa.LoaRecipe, **LOA, hidden_words=0.5))


def test_the_table_of_words_can_stay_as_it_is(assembled: Path):
    pipe = AudioLDM2Pipeline.from_pretrained(assembled)
    parts = {name: getattr(pipe, name) for name in COMPONENTS}
    for frozen in (False, True):
        recipe = recipe_of(loa.LoaRecipe, **LOA, train_text_encoder_2=True, freeze_words=frozen)
        names = loa.LoaObjective(parts, recipe).state_dict()
        assert any(name.startswith("trained.text_encoder_2.encoder.block") for name in names)
        assert any(name.endswith(("shared.weight", "embed_tokens.weight")) for name in names) is not frozen


def test_captions_learnt_together_are_those_learnt_alone(assembled: Path):
    """Computing captions of one length together changes the order of sums."""
    pipe = AudioLDM2Pipeline.from_pretrained(assembled)
    together, alone = (loa.Captions(pipe.text_encoder, pipe.tokenizer, pipe.tokenizer_2, 48) for _ in range(2))
    wanted = every_caption(["rain", "dog barking", "rain"])
    rng = random.Random(0)
    assert {caption("rain", rng) for _ in range(200)} < set(wanted)
    assert len(set(wanted)) == len(wanted)
    some = wanted[::40]
    together.learn(some, batch=4)
    assert list(together.known) != some  # by length
    for text in some:
        kept = together.known[text]
        for name, tensor in alone(text).items():
            assert_same(kept[name], tensor, **TINY_MODEL)


def test_a_class_is_heard_as_often_as_the_recipe_says(data: Path):
    clips = load_clips([data], 16_000)
    labels = sorted({clip.labels[-1] for clip in clips})

    def drawn(**weights: float) -> list[str]:
        sampler = ClipSampler(clips, {}, weights)
        rng = random.Random(0)
        return [sampler.draw(rng).labels[-1] for _ in range(300)]

    assert set(drawn()) == set(labels)
    assert set(drawn(**dict.fromkeys(labels[1:], 0.0))) == {labels[0]}
    assert drawn(**{labels[0]: 3.0}).count(labels[0]) > 1.3 * drawn().count(labels[0])


@pytest.mark.slow
def test_words_lie_where_the_sentence_encoder_puts_them():
    """Distances of tokens in T5's table and in the encoder's own space, all its axes taken."""
    parts = tiny_components()
    clap, tokenizer = parts["text_encoder"], parts["tokenizer"]
    size = clap.config.projection_dim
    table = text_encoders.token_table(clap, tokenizer, size)
    assert table.shape == (len(tokenizer), size)
    assert float(table.std()) == pytest.approx(1.0, abs=1e-5)
    assert tokenizer.backend_tokenizer.padding is None
    numbers = torch.arange(len(tokenizer))
    first, last = torch.full_like(numbers, tokenizer.cls_token_id), torch.full_like(numbers, tokenizer.sep_token_id)
    with torch.no_grad():
        features = clap.get_text_features(torch.stack([first, numbers, last], dim=1))
    wanted = torch.pdist(getattr(features, "pooler_output", features))
    found = torch.pdist(table)
    # distances are found as squares less products, which rounds by the size of what is far apart
    torch.testing.assert_close(found / found.mean(), wanted / wanted.mean(), rtol=0, atol=rounding(4.0, **TINY_MODEL))
    with pytest.raises(DataError, match=f"d_model of text_encoder_2 is {size + 1}"):
        text_encoders.token_table(clap, tokenizer, size + 1)


@pytest.mark.slow
def test_the_switch_and_the_dropout(assembled: Path):
    pipe = AudioLDM2Pipeline.from_pretrained(assembled)
    captions = loa.Captions(pipe.text_encoder, pipe.tokenizer, pipe.tokenizer_2, 48)
    given = {**captions("rain"), "latents": torch.randn(4, 32, 4), "loa": torch.randn(TOKENS, LOA_SIZE)}
    batch = {name: torch.stack([tensor] * 2) for name, tensor in given.items()}
    parts = {name: getattr(pipe, name) for name in COMPONENTS}

    def loss_and_gradient(truth: float, nothing: float) -> tuple[float, float]:
        recipe = recipe_of(
            joint.JointRecipe, **LOA, truth_probability=truth, condition_dropout=nothing, loa_weight=0.0
        )
        objective = joint.JointObjective(parts, recipe, pipe.scheduler, captions(""))
        objective.zero_grad()
        torch.manual_seed(0)
        loss = objective(**batch)["loss"]
        loss.backward()
        return float(loss.detach()), float(parts["language_model"].wpe.weight.grad.abs().max())

    assert loss_and_gradient(1.0, 0.0)[1] == 0  # nothing reaches GPT-2 where the truth is told, or nothing is
    assert loss_and_gradient(0.0, 1.0)[1] == 0
    assert loss_and_gradient(0.0, 0.0)[1] > 0
    assert len({loss_and_gradient(*case)[0] for case in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0))}) == 3


def test_the_first_token_becomes_the_mean(tmp_path: Path):
    """Cosine of a CLAP with one layer more to the mean of the tokens of the one it is made from (0.99999)."""
    parts = tiny_components()
    clap, tokenizer = parts["text_encoder"], parts["tokenizer"]
    with torch.no_grad():
        for parameter in clap.text_model.encoder.parameters():
            parameter.normal_(std=0.3)
    tower = Tower(clap, tokenizer)
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    model = text_encoders.pooled_by_mean(clap, tokens, vocabulary)
    texts = ["rain", "a dog barking", "waves on a shore"]
    text_encoders.keep_level(model, text_encoders.token_means(tower, texts))
    assert float(text_encoders.cosines(model, tokenizer, tower, texts).min()) > 0.99
    assert not torch.equal(tower(texts)[0], tower(texts)[1])


@pytest.mark.parametrize("stage", ["vae", "vocoder", "diffusion", "loa", "joint", "text", "assemble", "lora"])
def test_the_shipped_recipes_can_be_read(stage: str):
    kinds: dict[str, type[Any]] = {
        "vae": autoencoder.AutoencoderRecipe, "vocoder": vocoder.VocoderRecipe, "joint": joint.JointRecipe,
        "diffusion": diffusion.DiffusionRecipe, "loa": loa.LoaRecipe, "text": text_encoders.TextEncodersRecipe,
        "assemble": assemble.AssembleRecipe, "lora": lora.LoraRecipe,
    }  # fmt: skip
    name = "audioldm2-lora.yaml" if stage == "lora" else f"audioldm2-tiny-{stage}.yaml"
    recipe = load_recipe(kinds[stage], RECIPES / name)
    if stage == "diffusion":
        assert diffusion.build_unet(recipe, Path()).config.attention_head_dim == [1, 2, 4]


def test_what_is_missing_is_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(DataError, match="this stage needs vae: say in components"):
        run(diffusion, diffusion.DiffusionRecipe, data, tmp_path / "run")
    with pytest.raises(DataError, match="components: vae is nowhere, but"):
        run(diffusion, diffusion.DiffusionRecipe, data, tmp_path / "run", components={"vae": "nowhere"})
    with pytest.raises(DataError, match="this stage needs pipeline"):
        run(lora, lora.LoraRecipe, data, tmp_path / "run")
    scheduler = diffusion.make_scheduler({})
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(DataError, match="prediction_type is 'flow'"):
        diffusion.diffusion_loss(None, scheduler, torch.zeros(1, 4, 8, 2), torch.zeros(1, 2, 4))
    assert main(["train", "joint", "--data", str(data), "--output", str(tmp_path), "--set", "no_such=1"]) != 0
    assert "unknown recipe setting 'no_such'" in capsys.readouterr().err


@pytest.mark.slow
def test_all_stages_one_after_the_other(data: Path, runs: Path, tmp_path: Path):
    shutil.copytree(runs / "text", tmp_path / "text")
    shutil.copytree(runs / "audiomae", tmp_path / "audiomae")
    words = {name: f"text/{name}" for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    heard = {"audio_mae": "audiomae", "vae": "vae/model"}
    learnt = {name: f"loa/model/{name}" for name in ("projection_model", "language_model", "text_encoder_2")}
    stages: list[tuple[str, Any, type[Any], dict[str, Any]]] = [
        ("vae", autoencoder, autoencoder.AutoencoderRecipe, {"model": VAE}),
        ("vocoder", vocoder, vocoder.VocoderRecipe, {"model": VOCODER, "adversarial_weight": 0.1}),
        ("diffusion", diffusion, diffusion.DiffusionRecipe, {"model": UNET, "components": heard}),
        ("loa", loa, loa.LoaRecipe, {**LOA, "components": {**words, **heard}, "train_text_encoder_2": True}),
        ("joint", joint, joint.JointRecipe,
         {**LOA, "components": {**words, **heard, **learnt, "unet": "diffusion/model/unet"}}),
    ]  # fmt: skip
    for name, stage, kind, fields in stages:
        result = run(stage, kind, data, tmp_path / name, scheduler=SCHEDULER, bf16=True, **fields)
        assert np.isfinite(list(result.values())).all()
        assert (tmp_path / name / "curve.png").is_file()
    assemble.main(None, tmp_path, tmp_path / "pipeline", scheduler=SCHEDULER, components={"audio_mae": "audiomae"})
    stored = load_file(tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    assert (stored["conv_in.weight"].dtype, stored["conv_in.bias"].dtype) == (torch.float16, torch.float32)
    pipe = AudioLDM2Pipeline.from_pretrained(tmp_path / "pipeline")
    assert pipe.vae.config.scaling_factor != 0.18215
    assert np.isfinite(pipe("rain", num_inference_steps=2).audios).all()


@pytest.mark.slow
def test_adapters_are_saved_alone_and_come_back(data: Path, tmp_path: Path):
    folder = published_folder(tmp_path / "audioldm2")
    fields: dict[str, Any] = {"pipeline": str(folder), "seconds": 0.08, "views": 1, "learning_rate": 0.01}
    result = run(lora, lora.LoraRecipe, data, tmp_path / "run", **fields)
    assert np.isfinite(result["loss"])
    checkpoint = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    assert checkpoint
    assert all("lora_" in name for name in checkpoint)
    pipe = AudioLDM2Pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)

    def made() -> Any:
        return pipe("rain", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).audios

    before = made()
    pipe.load_lora_weights(tmp_path / "run" / "model")
    assert np.abs(made() - before).max() > 1e-6
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    shutil.rmtree(tmp_path / "run" / "model")
    again = run(lora, lora.LoraRecipe, data, tmp_path / "run", **fields)
    assert {**again, "minutes": 0} == {**result, "minutes": 0}
    with pytest.raises(DataError, match=r"target_modules .*'nothing'"):
        run(lora, lora.LoraRecipe, data, tmp_path / "other", **{**fields, "target_modules": ["nothing"]})
