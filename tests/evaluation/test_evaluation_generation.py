# SPDX-License-Identifier: Apache-2.0
"""The classifier that judges generated sounds, what is measured with it, and how the command and a card show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch
from sounds import corpus
from tiny_audioldm2 import CLOSE, SAMPLES, SECONDS, published_folder
from torch import Tensor

from hubsep import AudioLDM2Pipeline
from hubsep.cards.results import improvement, results_table
from hubsep.cli import main
from hubsep.data.recordings import load_clips, split_clips
from hubsep.errors import AudioError, CheckpointError, DataError
from hubsep.evaluation.sounds import Ears, Sounds, evaluate_sounds, make_sounds, unseen_prompts, wilson
from hubsep.models.sound_classifier.configuration_sound_classifier import SoundClassifierConfig
from hubsep.models.sound_classifier.modeling_sound_classifier import SoundClassifier
from hubsep.training.generators import classifier
from hubsep.training.recipe import load_recipe


RATE = 16_000
MODEL: dict[str, Any] = {
    "hop_length": 80, "num_frames": SAMPLES // 80, "num_mels": 16, "channels": [8, 16], "embedding_size": 6,
    "dropout": 0.0,
}  # fmt: skip
RECIPES = Path(classifier.__file__).parents[1] / "recipes"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("data"))


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "model": MODEL, "steps": 30, "batch_size": 8, "learning_rate": 0.01, "warmup_steps": 2, "eval_every": 30,
        "save_every": 15, "bf16": False, "least_recordings": 6, "validation_fraction": 0.3, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of dogs (tones) and rain (noise), as the command trains it."""
    output = tmp_path_factory.mktemp("runs") / "classifier"
    result = classifier.main(None, data, output, **settings())
    assert result["accuracy"] == 1.0, "tones and noise are told apart after 30 steps"
    assert result["classes"] == {"dog barking": 1.0, "rain": 1.0}, "speakers are too few to hold any out"
    assert json.loads((output / "accuracy.json").read_text()) == result
    return output


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.slow
def test_a_classifier_does_not_hear_the_level(trained: Path):
    model = SoundClassifier.from_pretrained(trained / "model").eval()
    waveforms = torch.randn(3, SAMPLES, generator=torch.Generator().manual_seed(0))
    heard, quiet = model.hear(0.3 * waveforms), model.hear(0.01 * waveforms)
    torch.testing.assert_close(quiet.logits, heard.logits, atol=1e-3, rtol=0)
    assert heard.logits.argmax(dim=1).tolist() == [1, 1, 1], "noise is rain"
    assert heard.embeddings.shape == (3, 6)
    with pytest.raises(AudioError, match=r"\(batch, samples\) and finite, got \(1, 3, 1280\)"):
        model.hear(waveforms[None])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["rain"]}, "2 to 4096 different names, got 1"),
        ({"class_names": ["rain", "rain"]}, "different names"),
        ({"channels": [8] * 6, "num_frames": 32}, "num_frames"),
        ({"range_nepers": 0.0}, "range_nepers"),
    ],
)
def test_fields_of_a_classifier_are_bounded(changes: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=message):
        SoundClassifierConfig(**changes)


@pytest.mark.slow
def test_a_resumed_classifier_is_the_same(data: Path, trained: Path, tmp_path: Path):
    classifier.main(None, data, tmp_path / "run", **settings(steps=30, minutes=1e-9))  # stops after the first step
    assert (tmp_path / "run" / "checkpoint-1").is_dir()
    classifier.main(None, data, tmp_path / "run", **settings())
    whole, resumed = (SoundClassifier.from_pretrained(run / "model") for run in (trained, tmp_path / "run"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_items_depend_on_their_number_and_labels_add_up(data: Path):
    recipe = load_recipe(classifier.ClassifierRecipe, None, **settings(mixed=1.0))
    config = SoundClassifierConfig(class_names=["dog barking", "rain"], **MODEL)
    clips = load_clips([data], RATE)
    datasets = [classifier.ExcerptDataset(classifier.spectrograms_of(clips, config), config, recipe) for _ in range(2)]
    for number in (0, 7):
        items = [dataset[number] for dataset in datasets]
        assert torch.equal(items[0]["input_features"], items[1]["input_features"])
        assert items[0]["input_features"].shape == (config.num_frames, config.num_mels)
        assert items[0]["input_features"].aminmax() == (-1.0, 1.0)
        assert items[0]["labels"].sum().item() == pytest.approx(1)
    assert len(datasets[0].spectrograms[1]) == 8
    assert any(0 < datasets[0][number]["labels"].min().item() < 1 for number in range(16))
    with pytest.raises(IndexError, match="item 240 of 240"):
        datasets[0][240]


def test_classes_of_few_recordings_are_left_out(data: Path):
    training, heldout = split_clips(load_clips([data], RATE), 0.3)
    assert classifier.classes_of(training, heldout, 6) == ["dog barking", "rain"]
    with pytest.raises(DataError, match="two classes of at least 9 recordings"):
        classifier.classes_of(training, heldout, 9)
    recipe = load_recipe(classifier.ClassifierRecipe, RECIPES / "classifier.yaml")
    assert recipe.commercial_only


def ears() -> Ears:
    """A classifier by hand: the first number of a waveform says which class it is, the next four are its embedding."""
    return Ears(lambda x: (20 * torch.eye(4)[x[:, 0].long()], x[:, 1:5]), ["cat", "dog", "rain", "wind"])


def marked(label: int, count: int, centre: float) -> Tensor:
    generator = torch.Generator().manual_seed(10 * label + count)
    waveforms = torch.randn(count, 16, generator=generator)
    waveforms[:, 0] = label
    waveforms[:, 1:5] += centre
    return waveforms


def test_figures_are_those_of_cases_made_by_hand():
    made = torch.stack([marked(1, 4, 0.0), marked(2, 4, 0.0)])
    made[1, 3, 0] = 3  # one of four sounds of rain is taken for wind
    heldout, training = [marked(1, 3, 0.0), marked(2, 3, 9.0)], [marked(1, 5, 0.0), marked(2, 5, 9.0)]
    unseen, labels = made[:, 0].clone(), torch.tensor([0, 1])
    unseen[0, 0] = 2
    result = evaluate_sounds(Sounds(["dog", "rain"], RATE, made, heldout, training, unseen, labels), ears())
    dog, rain = result["classes"]["dog"], result["classes"]["rain"]
    assert (dog["accuracy"], rain["accuracy"], result["accuracy"]) == (1.0, 0.75, 0.875)
    assert (dog["accuracy_unseen"], rain["accuracy_unseen"], result["accuracy_unseen"]) == (0.0, 1.0, 0.5)
    assert result["accuracy_real"] == 1.0
    assert result["accuracy_ci"] == wilson(7, 8)
    assert (result["sounds"], result["recordings"], result["chance"]) == (8, 6, 0.25)
    assert result["confusion"] == {"dog": {"dog": 4}, "rain": {"rain": 3, "wind": 1}}
    # rain is made where dogs are, 9 from real rain in each of four numbers
    assert rain["class_fad"] > 200 > 30 > rain["class_fad_training"]
    assert dog["class_fad"] < 30 < 200 < dog["class_fad_others"]
    assert dog["kl"] == pytest.approx(0, abs=1e-3)
    assert dog["kl_others"] > 5
    assert result["fad"] > result["fad_training"]
    assert "own_fad" not in result
    assert dog["level_db"] == pytest.approx(10 * torch.log10(made[0].square().mean(dim=1)).median().item(), abs=3)


def test_a_classifier_that_does_not_know_a_class_is_refused():
    sounds = Sounds(["cow"], RATE, marked(1, 2, 0.0)[None], [marked(1, 2, 0.0)], [marked(1, 2, 0.0)])
    with pytest.raises(DataError, match=r"\['cow'\] are not known"):
        evaluate_sounds(sounds, ears())


def test_intervals_of_proportions():
    low, high = wilson(50, 100)
    assert (low, high) == (0.4038, 0.5962)  # Wilson's, as tables have it
    assert wilson(10, 10)[0] == pytest.approx(0.7225, abs=1e-4)


@pytest.mark.slow
def test_a_sound_does_not_depend_on_what_is_made_beside_it(generator: Path):
    pipe = AudioLDM2Pipeline.from_pretrained(generator)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "guidance_scale": 3.0}
    both = make_sounds(pipe, [("rain", 0), ("a dog", 1)], SECONDS, 5, **options)
    alone = make_sounds(pipe, [("a dog", 1)], SECONDS, 5, **options)
    assert both.shape == (2, SAMPLES)
    assert (both[1:] - alone).abs().max() < CLOSE
    other = make_sounds(pipe, [("a dog", 2)], SECONDS, 5, **options)
    assert (other - alone).abs().max() > 1e-3
    assert [label for label, _ in unseen_prompts(["no such sound", "rain"], 2)] == [1, 1]


@pytest.mark.slow
def test_the_command_measures_a_generator(
    data: Path, trained: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["evaluate", str(generator), "--data", str(data), "--dataset", "prompts", "--per-class", "2"]
    command += ["--steps", "2", "--json", str(tmp_path / "evaluation.json"), "--output", str(tmp_path / "made")]
    assert main([*command, "--classifier", str(trained / "model")]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(result["classes"]) == ["dog barking", "rain"]
    assert result["sounds"] == 4
    assert result["accuracy_real"] == 1.0
    assert f"accuracy {result['accuracy']} " in printed
    assert result["own_clap_real"] > -1
    assert {"fad", "fad_training", "own_fad", "own_fad_noise", "kl", "accuracy_unseen"} <= result.keys()
    assert "--classifier CLASSIFIER" in result["command"]
    assert "2 steps, guidance 3.5" in result["measured_on"]
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert made == {"spectrograms.png", "confusion.png", "dog_barking.wav", "rain.wav"}
    assert sf.info(tmp_path / "made" / "rain.wav").frames == SAMPLES
    for missing, message in ((command, "hubsep train classifier"), ([*command, "--seconds", "3"], "classifier")):
        assert main([*missing, "--overwrite"]) != 0
        assert message in capsys.readouterr().err


def test_a_card_shows_what_figures_are_worth():
    sounds = [marked(1, 4, 0.0), marked(2, 4, 3.0)]
    result = evaluate_sounds(Sounds(["dog", "rain"], RATE, torch.stack(sounds), sounds, sounds), ears())
    table = results_table(result)
    assert table.splitlines()[0].startswith("| class | sounds | recognised | in the first three | real recordings |")
    assert "| dog | 4 | 100 % | 100 % | 4 | 100 % | 100 % | 0.0 |" in table
    assert "guessing 25 %, real recordings 100 %" in table
    assert f"embedding: {result['fad']}; recordings that training heard {result['fad_training']}, white noise" in table
    assert improvement(result) == "recognised 100 % (real sounds 100 %)"
