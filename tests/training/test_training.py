# SPDX-License-Identifier: Apache-2.0
"""The training recipes on made-up data: they run, resume to the same bits, and refuse settings they do not have."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import yaml
from rounding import assert_same
from safetensors.torch import load_file
from sounds import corpus
from tiny_conv_tasnet import tiny_conv_tasnet
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    ClapTextModelWithProjection,
)

from hubsep import AutoModelForAudioSeparation
from hubsep.cli.train import RECIPES
from hubsep.data.mixing import MixingSettings
from hubsep.data.music import MusicSettings
from hubsep.data.prompts import catalogue
from hubsep.data.scenes import SceneSettings
from hubsep.data.speech import SpeechSettings
from hubsep.errors import DataError
from hubsep.training.bounds import LIMITS, check_bounds, settings_of
from hubsep.training.finetune import run as finetune
from hubsep.training.finetune.recipe import FineTuneRecipe
from hubsep.training.recipe import load_recipe
from hubsep.training.separators import audio_tower, audiosep, release, text_tower, words
from hubsep.training.separators.query_classes import class_phrases, embed, teach_classes
from hubsep.training.trainer import training_arguments
from hubsep.training.validation import (
    CurveCallback,
    Judge,
    last_checkpoint,
    mark_complete,
    read_measures,
    write_whole,
)


TINY = {
    "query_pooling": "mean", "sampling_rate": 8_000, "n_fft": 64, "hop_length": 16, "stem_channels": 4,
    "encoder_channels": [4, 8], "encoder_strides": [[2, 2], [2, 2]], "input_features": "compressed",
    "film_gain": True, "normalize_input": True, "presence_head": True, "loss": "sdr", "segment_samples": 8_000,
    "overlap_samples": 1_000,
}  # fmt: skip
TINY_AUDIO = {"depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentence encoder in BERT's layout."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = [chr(c) for c in range(97, 123)]
    words = sorted({w for e in catalogue()["sounds"].values() for p in e["words"] for w in p.lower().split()})
    words += ["puppy", "downpour", "chopper", "bonfire", "fireplace", "flamenco"]  # words that are not taught
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *words]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    BertTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tower(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tower")
    text_tower.main(None, encoder, folder, common_words=0, projection_dim=16)
    return folder


def settings(tower: Path, **changes: Any) -> dict[str, Any]:
    return {
        "text_tower": str(tower), "model": TINY, "audio_tower": TINY_AUDIO, "mixing": {"seconds": 0.5},
        "batch_size": 2, "steps": 4, "save_every": 2, "eval_every": 4, "warmup_steps": 1, "bf16": False, **changes,
    }  # fmt: skip


@pytest.mark.slow
@torch.no_grad()
def test_a_whole_tower_is_its_encoder(encoder: Path, tower: Path):
    texts = ["a dog barking", "rain", "someone talking in the rain"]
    original = AutoModel.from_pretrained(encoder).eval()
    batch = AutoTokenizer.from_pretrained(encoder)(texts, padding=True, return_tensors="pt")
    hidden = original(**batch).last_hidden_state
    weight = batch["attention_mask"].unsqueeze(-1)
    expected = torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
    model, processor = audiosep.build_model(load_recipe(audiosep.AudioSepRecipe, None, **settings(tower)))
    tokens = processor(text=texts)
    embeds = model.eval().encode_text(tokens["input_ids"], tokens["attention_mask"])
    # all 16 axes are kept, so the projection is a rotation and leaves the cosines as they were
    assert_same(embeds @ embeds.T, expected @ expected.T, terms=64, layers=20)


@pytest.mark.slow
def test_a_tower_of_fewer_words_is_the_same_on_the_words_it_keeps(encoder: Path, tmp_path: Path):
    options = {"projection_dim": 8, "common_words": 3, "sound_words": 2}
    report = text_tower.main(None, encoder, tmp_path / "small", **options)
    assert 0 < report["heldout_similarity"] < 1
    text_tower.main(None, encoder, tmp_path / "whole", **{**options, "common_words": 0})
    assert len(AutoTokenizer.from_pretrained(tmp_path / "small")) < len(AutoTokenizer.from_pretrained(encoder))
    towers = [
        text_tower.Tower(ClapTextModelWithProjection.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
        for folder in (tmp_path / "small", tmp_path / "whole")
    ]
    small, whole = (tower.many(["a dog barking", "rain on the roof"]) for tower in towers)
    assert_same(small, whole, terms=64, layers=20)


@pytest.mark.slow
def test_a_release_is_smaller_and_nearly_the_same(tower: Path, tmp_path: Path):
    model, processor = audiosep.build_model(load_recipe(audiosep.AudioSepRecipe, None, **settings(tower)))
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    (tmp_path / "released").mkdir()
    (tmp_path / "released" / "card.json").write_text("{}")
    release.main(None, tmp_path / "trained", tmp_path / "released")
    assert (tmp_path / "released" / "card.json").read_text() == "{}"
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / n).glob("*.safetensors")) for n in ("trained", "released")
    ]
    assert sizes[1] < 0.7 * sizes[0]  # a third of this tiny model is names of tensors
    again: Any = AutoModelForAudioSeparation.from_pretrained(tmp_path / "released")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    tokens = processor(text=["rain", "a dog barking"])
    before, after = (m.eval().encode_text(tokens["input_ids"], tokens["attention_mask"]) for m in (model, again))
    # 0.986 with these 16 random numbers a layer; 0.996 and more with trained ones
    assert (before * after).sum(-1).min() > 0.98


def test_a_release_of_a_model_without_processor(tmp_path: Path):
    model, _ = tiny_conv_tasnet()
    model.save_pretrained(tmp_path / "trained")
    release.main(None, tmp_path / "trained", tmp_path / "released")
    stored = load_file(tmp_path / "released" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim > 1} == {torch.float16}
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim < 2} == {torch.float32}
    again: Any = AutoModelForAudioSeparation.from_pretrained(tmp_path / "released")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_classes_are_taught_and_taken_over(tower: Path, tmp_path: Path):
    model_fields = {**TINY, "query_hidden_size": 8}
    recipe = load_recipe(audiosep.AudioSepRecipe, None, **settings(tower, model=model_fields))
    start, processor = audiosep.build_model(recipe)
    start.save_pretrained(tmp_path / "start")
    recipe.teach_classes, recipe.initial_model = True, str(tmp_path / "start")
    model, _ = audiosep.build_model(recipe)
    assert torch.equal(model.stem.weight, start.stem.weight)
    for name, tensor in start.query_encoder.audio_model.state_dict().items():
        assert torch.equal(model.query_encoder.audio_model.state_dict()[name], tensor), name
    teach_classes(model, processor, noise=0.0, templates=1)
    rows = class_phrases(list(model.config.query_classes))
    embeds = embed(model, processor, [phrase for phrase, _ in rows])
    network: Any = model.query_network
    right = network.classify(embeds).argmax(dim=-1) == torch.tensor([number for _, number in rows])
    assert right.float().mean() > 0.2  # of 47 classes, on 16 numbers from a sentence encoder nobody trained
    dog = model.config.query_classes.index("dog barking")
    effects = start.query_network(embeds[[index for index, (_, number) in enumerate(rows) if number == dog]])
    assert_same(network.values.weight[:, dog], effects.mean(dim=0), terms=64, layers=4)
    assert not any(parameter.requires_grad for parameter in network.linear2.parameters())


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tower: Path, tmp_path: Path):
    data = corpus(tmp_path / "sounds")
    audiosep.main(None, data, tmp_path / "whole", **settings(tower))
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for name in ("checkpoint-4", "model"):
        shutil.rmtree(tmp_path / "resumed" / name)
    point = audiosep.main(None, data, tmp_path / "resumed", **settings(tower))
    whole, resumed = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert point["step"] == 4
    curve = json.loads((tmp_path / "resumed" / "curve.json").read_text())
    assert [p["step"] for p in curve] == [4]
    assert (tmp_path / "resumed" / "curve.png").stat().st_size > 1_000


@pytest.mark.slow
def test_a_run_starts_from_another_models_separator(tower: Path, tmp_path: Path):
    data = corpus(tmp_path / "sounds")
    audiosep.main(None, data, tmp_path / "first", **settings(tower, steps=1, save_every=1))
    recipe = load_recipe(
        audiosep.AudioSepRecipe, None, **settings(tower, initial_model=str(tmp_path / "first" / "model"))
    )
    model, _ = audiosep.build_model(recipe)
    saved = load_file(tmp_path / "first" / "model" / "model.safetensors")
    assert torch.equal(model.unet.head.weight, saved["unet.head.weight"])


@pytest.mark.slow
def test_a_separator_learns_from_scenes_and_is_then_taught_words(tower: Path, tmp_path: Path):
    data, fields = corpus(tmp_path / "sounds"), {**TINY, "query_hidden_size": 8}
    audiosep.main(
        None, data, tmp_path / "first", **settings(tower, model=fields, steps=1, save_every=1, teach_classes=True)
    )
    before = load_file(tmp_path / "first" / "model" / "model.safetensors")
    changes = {
        "text_tower": "", "initial_model": str(tmp_path / "first" / "model"), "scenes": {"seconds": 0.5},
        "model": {"frame_presence_weight": 1.0, "sum_weight": 0.25}, "average_decay": 0.5,
    }  # fmt: skip
    point = audiosep.main(None, data, tmp_path / "second", **settings(tower, **changes))
    assert point["step"] == 4
    assert {"sdri", "missed", "stranger", "stranger_level"} <= set(point)
    after = load_file(tmp_path / "second" / "model" / "model.safetensors")
    assert not torch.equal(before["unet.head.weight"], after["unet.head.weight"])
    told = words.main(None, tmp_path / "second" / "model", tmp_path / "third", steps=20, templates=1)
    assert set(told) == {"english", "de", "fr", "es", "it", "pt"}
    taught = load_file(tmp_path / "third" / "model.safetensors")
    changed = {name for name in after if not torch.equal(after[name], taught[name])}
    assert changed
    assert all(name.startswith(("query_network.linear1", "query_network.linear2")) for name in changed)


@pytest.mark.slow
def test_new_classes_start_from_their_words_and_their_group(tower: Path, tmp_path: Path):
    fields = {**TINY, "query_hidden_size": 8}
    start, processor = audiosep.build_model(
        load_recipe(audiosep.AudioSepRecipe, None, **settings(tower, model=fields))
    )
    start = type(start)(type(start.config)(**{**start.config.to_dict(), "query_classes": ["rain", "any animal"]}))
    model, _ = audiosep.build_model(
        load_recipe(audiosep.AudioSepRecipe, None, **settings(tower, model=fields, teach_classes=True))
    )
    audiosep.start_queries(model, start, processor)
    taught: Any = model.query_network
    first: Any = start.query_network
    names, values = list(model.config.query_classes), taught.values.weight.detach()
    before = first.values.weight.detach()
    torch.testing.assert_close(values[:, names.index("rain")], before[:, 0])
    rows = [phrase for phrase, number in class_phrases(names) if names[number] == "dog barking"]
    effect = start.query_network(embed(model, processor, rows)).mean(dim=0)
    torch.testing.assert_close(values[:, names.index("dog barking")], (effect + before[:, 1]) / 2, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_model_of_other_classes_is_not_taught_the_words_of_the_catalogue(tower: Path, tmp_path: Path):
    model, processor = audiosep.build_model(load_recipe(audiosep.AudioSepRecipe, None, **settings(tower)))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="no query class 'anything else'"):
        words.main(None, tmp_path / "model", tmp_path / "out")
    with pytest.raises(DataError, match="needs text_tower"):
        audiosep.build_model(load_recipe(audiosep.AudioSepRecipe, None, **settings(tower, text_tower="")))


def test_too_few_sources_to_hold_one_out(tower: Path, tmp_path: Path):
    few = corpus(tmp_path / "few", clips=4)
    with pytest.raises(DataError, match="six sources of a label are needed to hold one out"):
        audiosep.main(None, few, tmp_path / "run", **settings(tower))


def test_settings_a_recipe_does_not_have(tmp_path: Path):
    with pytest.raises(DataError, match="unknown recipe setting 'stepz'"):
        load_recipe(audiosep.AudioSepRecipe, None, stepz=4)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(DataError, match="must be a mapping"):
        load_recipe(audiosep.AudioSepRecipe, tmp_path / "list.yaml")
    with pytest.raises(DataError, match="does not exist"):
        load_recipe(audiosep.AudioSepRecipe, tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("audiosep-small", audiosep.AudioSepRecipe),
        ("audiosep-small-start", audiosep.AudioSepRecipe),
        ("audiosep-small-scenes", audiosep.AudioSepRecipe),
        ("audio-tower", audio_tower.AudioTowerRecipe),
        ("text-tower", text_tower.TextTowerRecipe),
    ],
)
def test_shipped_recipes_can_be_read(name: str, kind: type):
    load_recipe(kind, Path(audiosep.__file__).parents[1] / "recipes" / f"{name}.yaml")


DEEP = pytest.param("[" * 200_000, id="deep")


@pytest.mark.parametrize(
    "content", ["{}x", "{", DEEP, "{}", "[7]", '[{"step": "x", "minutes": 1, "sdr": 1}]', '[{"step": 1}]', "pipe"]
)
def test_curves_that_no_run_wrote_are_refused_by_name(content: str, tmp_path: Path):
    path = tmp_path / "curve.json"
    if content == "pipe":
        os.mkfifo(path)
    else:
        path.write_text(content)
    judge = Judge(lambda model: {}, "sdr", "")
    with pytest.raises(DataError, match=r"curve.json.*choose another --output"):
        CurveCallback(torch.nn.Linear(1, 1), judge, load_recipe(audiosep.AudioSepRecipe, None), tmp_path)


@pytest.mark.parametrize("content", ["{", DEEP, "[1]", '{"sdr": "x"}'])
def test_measures_that_no_run_wrote_are_refused_by_name(content: str, tmp_path: Path):
    (tmp_path / "before.json").write_text(content)
    with pytest.raises(DataError, match=r"before.json.*choose another --output"):
        read_measures(tmp_path / "before.json")


@pytest.mark.parametrize(
    "content", ["[1", "[1]", DEEP, '{"../x": 1}', '{"trainer_state.json": 3}', '{"a\\u0000b": 1}']
)
def test_folders_that_are_no_checkpoints_are_passed_over(content: str, tmp_path: Path):
    whole = tmp_path / "checkpoint-1"
    for name in ("checkpoint-abc", "checkpoint-", "checkpoint-\u00b2", "checkpoint-" + "9" * 200, "checkpoint-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "complete.json").write_text(content)
        (tmp_path / name / "trainer_state.json").write_text("[[[")
    whole.mkdir()
    (whole / "trainer_state.json").write_text('{"global_step": 1}')
    mark_complete(whole)
    assert last_checkpoint(tmp_path) == str(whole)


def test_what_is_written_goes_through_no_link(tmp_path: Path):
    (tmp_path / ".curve.json.part").symlink_to(tmp_path / "elsewhere")
    write_whole(tmp_path / "curve.json", "[]")
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "curve.json").read_text() == "[]"


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path: Path):
    resource: Any = pytest.importorskip("resource", reason="a limit on sizes of files is of POSIX")
    place = tmp_path / "numbers.json"
    write_whole(place, "[1]")
    place.chmod(0o600)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_whole(place, "[" + "1," * 500 + "1]")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]
    assert place.read_text() == "[1]"
    write_whole(place, "[2]")
    assert (place.read_text(), place.stat().st_mode & 0o777) == ("[2]", 0o600)


RECIPES_FOLDER = Path(audiosep.__file__).parents[1] / "recipes"
SETTINGS = (MixingSettings, MusicSettings, SceneSettings, SpeechSettings)


def recipe_classes() -> list[type]:
    homes = [vars(import_module(home)) for home in RECIPES.values()]
    classes = {one for home in homes for one in home.values() if isinstance(one, type) and is_dataclass(one)}
    return [FineTuneRecipe, *sorted((one for one in classes if one.__name__.endswith("Recipe")), key=str)]


def test_every_number_of_a_recipe_has_bounds():
    unbounded = [
        f"{one.__name__}.{name}"
        for one in (*recipe_classes(), *SETTINGS)
        for name, kind in get_type_hints(one).items()
        if kind in (int, float, tuple[float, float]) and name not in LIMITS
    ]
    assert not unbounded


def test_defaults_and_shipped_recipes_are_within_their_bounds():
    for one in recipe_classes():
        for field in fields(one):
            if field.default not in (MISSING, 0):  # 0 stands for the system's own
                check_bounds(field.name, field.name, field.default)
    for path in RECIPES_FOLDER.glob("*.yaml"):
        for name, value in yaml.safe_load(path.read_text()).items():
            check_bounds(f"{path.name}: {name}", name, value)
            for key, item in value.items() if name in ("mixing", "scenes") else ():
                check_bounds(f"{path.name}: {name}: {key}", key, item)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("validation_mixtures", 1_000_000_000),
        ("mixing", {"seconds": math.nan}),
        ("mixing", {"seconds": 1_000_000_000}),
        ("mixing", 5),
        ("seed", -1),
        ("warmup_steps", -5),
        ("schedule", "x"),
        ("schedule", "reduce_lr_on_plateau"),
        ("rank", 100_000_000),
        ("batch_size", 1_000_000_000_000),
        ("steps", 1_000_000_000_000),
        ("steps", -1),
        ("max_grad_norm", -1),
        ("validation_fraction", 2),
        ("validation_seconds", 1e9),
        ("learning_rate", math.inf),
        ("report_to", [5]),
        ("report_to", "wandb"),
        ("folders", {"a": 1}),
    ],
)
def test_values_that_no_run_can_use_are_refused_before_it_begins(setting: str, value: Any, tmp_path: Path):
    """Before a model is loaded: there is none of that name."""
    with pytest.raises(DataError, match=setting):
        finetune.main("no-such/model", tmp_path, tmp_path / "run", **{setting: value})
    assert not (tmp_path / "run").exists()


def test_a_run_of_no_step_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="steps must be at least 1"):
        training_arguments(FineTuneRecipe(steps=0), tmp_path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"foo": 1}, "unknown mixing setting 'foo'"),
        ({"seconds": "3"}, "mixing setting seconds must be a number"),
        ({"speed_probability": 2}, "mixing setting speed_probability must be 0 to 1"),
        ({"loudness_db": [1]}, "mixing setting loudness_db must be a list of 2 numbers"),
        ({"loudness_db": [-900, 0]}, "mixing setting loudness_db must be -200 to 200"),
    ],
)
def test_settings_of_mixtures_are_checked_by_name_kind_and_bounds(values: dict[str, Any], reason: str):
    with pytest.raises(DataError, match=reason):
        settings_of(SpeechSettings, values, "mixing", sampling_rate=8_000)
    assert settings_of(SpeechSettings, {"seconds": 2}, "mixing", sampling_rate=8_000).seconds == 2
