# SPDX-License-Identifier: Apache-2.0
"""Negations and lists in queries: what is wanted, and what is left out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from promises_pipeline import audio, recording
from tiny_audiosep import tiny_audiosep, tiny_audiosep_with_presence

from hubsep.cli import main
from hubsep.data.prompts import catalogue, heldout_phrases, languages, phrases
from hubsep.models.audiosep.classes_audiosep import ELSE
from hubsep.pipelines import AudioSeparationPipeline
from hubsep.pipelines.separation.wording import Wording, read_wording, split_sounds


LEFT_OUT = {
    "everything but the voice": ["the voice"],
    "not speech": ["speech"],
    "no rain": ["rain"],
    "No Rain!": ["Rain"],
    "  NOT   the  Dog.": ["the Dog"],
    "everything except rain": ["rain"],
    "Everything apart from the drums, please": ["the drums"],
    "remove the noise": ["the noise"],
    "please remove the rain": ["the rain"],
    "can you remove the background noise?": ["the background noise"],
    "could you please filter out the hum from this recording": ["the hum"],
    "without the dog": ["the dog"],
    "all sounds except the bell and the car": ["the bell", "the car"],
    "get rid of the dog": ["the dog"],
    "mute the siren and the horn": ["the siren", "the horn"],
    "I don\u2019t want to hear the rain": ["the rain"],
    "dont want rain": ["rain"],
    "do not keep the voice": ["the voice"],
    "the recording without the voice": ["the voice"],
    "the song minus the vocals": ["the vocals"],
    "what is not speech": ["speech"],
    "anything that isn't a dog": ["a dog"],
    "anything other than rain": ["rain"],
    "non-speech": ["speech"],
    "speech-free audio": ["speech"],
    "the dog should go": ["the dog"],
    "the dog has to be removed": ["the dog"],
    "rain removed": ["rain"],
    "the recording with the rain removed": ["the rain"],
    "keep everything but the voice": ["the voice"],
    "give me all but the dog": ["the dog"],
    "let me hear everything except the birds": ["the birds"],
    "no dog and no rain": ["dog", "rain"],
    "no dog, no rain": ["dog", "rain"],
    "neither dog nor rain": ["dog", "rain"],
    "leave out the sound of rain": ["rain"],
    "cut out the hum": ["the hum"],
    "cut the drums": ["the drums"],
    "suppress wind": ["wind"],
    "exclude wind": ["wind"],
    "ignore speech": ["speech"],
    "reduce noise": ["noise"],
    "keep no speech": ["speech"],
    "kein Regen": ["Regen"],
    "bitte keine Stimme": ["Stimme"],
    "alles außer der Stimme": ["Stimme"],
    "alles bis auf den Hund und den Regen": ["Hund", "den Regen"],
    "entferne den Regen": ["Regen"],
    "das Rauschen entfernen, bitte": ["Rauschen"],
    "der Hund soll weg": ["Hund"],
    "weder Hund noch Regen": ["Hund", "Regen"],
    "pas de pluie": ["pluie"],
    "tout sauf la voix": ["voix"],
    "supprimer le bruit s'il vous plaît": ["bruit"],
    "aucun oiseau": ["oiseau"],
    "pas d\u2019oiseaux": ["oiseaux"],
    "je ne veux pas de musique": ["musique"],
    "sin lluvia": ["lluvia"],
    "no lluvia": ["lluvia"],
    "todo menos la voz": ["voz"],
    "quita el ruido, por favor": ["ruido"],
    "no quiero oír música": ["música"],
    "senza pioggia": ["pioggia"],
    "tutto tranne la voce": ["voce"],
    "togli il rumore": ["rumore"],
    "nessun'eco": ["eco"],
    "sem chuva": ["chuva"],
    "tudo menos a voz": ["voz"],
    "tirar o ruído": ["ruído"],
    "não quero ouvir o cão": ["cão"],
}
BOTH = {
    "rain without thunder": ("rain", ["thunder"]),
    "a dog but not a cat": ("a dog", ["a cat"]),
    "a man talking, no music": ("a man talking", ["music"]),
    "only the rain, not the dog": ("only the rain", ["the dog"]),
    "music other than drums": ("music", ["drums"]),
    "any instrument but the flute": ("any instrument", ["the flute"]),
    "the dog barking and no rain": ("the dog barking", ["rain"]),
    "rain but remove the thunder": ("rain", ["the thunder"]),
    "Regen ohne Donner": ("Regen", ["Donner"]),
    "Musik, aber kein Schlagzeug": ("Musik", ["Schlagzeug"]),
    "pluie sans tonnerre": ("pluie", ["tonnerre"]),
    "lluvia sin truenos": ("lluvia", ["truenos"]),
    "pioggia senza tuoni": ("pioggia", ["tuoni"]),
    "chuva sem trovão": ("chuva", ["trovão"]),
}
TWICE_NEGATED = {
    "remove everything but the dog": "the dog",
    "everything except rain should go": "rain",
    "get rid of all but the violin": "the violin",
    "nothing but rain": "rain",
    "no sound but the rain": "the rain",
    "don't remove the dog": "the dog",
    "mute everything except for the drums": "the drums",
    "entferne alles außer dem Hund": "Hund",
    "alles entfernen außer dem Hund": "Hund",
    "supprime tout sauf le chien": "chien",
    "elimina todo menos la voz": "voz",
    "rimuovi tutto tranne il cane": "cane",
    "remover tudo exceto o cão": "cão",
}
PLAIN = """a knock on the door|notes of a flute|northern wind|noise|a noisy street|snow|piano note|dog barking
another dog|nothing|cannon|no sound|no one speaking|non-stop rain|nonstop|a car with no muffler|instrumental
wireless phone|cordless|a saw cutting wood|cut down a tree|cutting paper|skipping rope|a muted trumpet|silence
silence, then a bang|rain, dog
take out the dog|keep only rain|drums only|a clock that is not ticking|block hit|dropping a plate
sin wave|mute swan|mute trumpet|non-diegetic music|no entry alarm|delete key|cut off saw|pas de deux|ni hao
turn off the tap|throw away trash|a salvo of cannon|reduce speed sign
knot|nothing at all|retire early|a coupe passing by|sans|sin|non-stop
Schritte auf dem Weg|nimm den Hund heraus|ein Hund|des pas dans la neige|bruits de pas|pas de course|le chien
tirer du scotch|tirar de la cinta|sintetizador|un uomo|a chuva"""


@pytest.mark.parametrize("text", LEFT_OUT)
def test_what_is_to_be_removed_is_left_out(text: str):
    assert read_wording(text) == Wording("", tuple(LEFT_OUT[text]))


@pytest.mark.parametrize("text", BOTH)
def test_one_sound_is_wanted_and_another_is_not(text: str):
    wanted, unwanted = BOTH[text]
    assert read_wording(text) == Wording(wanted, tuple(unwanted))


@pytest.mark.parametrize("text", TWICE_NEGATED)
def test_two_negations_cancel_each_other(text: str):
    assert read_wording(text) == Wording(TWICE_NEGATED[text])


def test_words_that_only_look_like_a_negation_stay_as_they_are():
    for text in PLAIN.replace("\n", "|").split("|"):
        assert read_wording(text) == Wording(text)


def test_what_the_catalogue_teaches_is_never_left_out():
    for label in [*catalogue()["sounds"], *catalogue()["others"]]:
        for phrase in [*phrases(label), *heldout_phrases(label)]:
            if phrase == "drum without snares":  # a drum all the same
                assert read_wording(phrase) == Wording("drum", ("snares",))
            else:
                assert read_wording(phrase) == Wording(phrase)
    for template in catalogue()["templates"]:
        assert not read_wording(template.format("a dog barking")).unwanted, template


def test_words_of_other_languages_are_never_left_out():
    for sounds in languages()["sounds"].values():
        for code, words in sounds.items():
            for template in languages()["templates"][code]:
                for word in words:
                    text = template.format(word)
                    assert read_wording(text) == Wording(text)


@pytest.mark.parametrize(
    "part", ["can you please ", "please ", "could you ", "entferne ", "la ", "rain but ", "no ", "a,"]
)
def test_long_texts_are_read_at_once(part: str):
    """Where a form can be read in two ways, thirty of them took hours: then the time of this test runs out."""
    text = (part * 10_000)[:9_990] + "rain"
    wording = read_wording(text)
    assert any("rain" in each for each in (wording.wanted, *wording.unwanted))


def test_lists_of_sounds():
    assert split_sounds("the dog, a cat and rain") == ["the dog", "a cat", "rain"]
    assert split_sounds("rain; wind/thunder & hail") == ["rain", "wind", "thunder", "hail"]
    assert split_sounds("a band playing outdoors") == ["a band playing outdoors"]


@pytest.fixture(scope="module")
def separate() -> Any:
    model, processor = tiny_audiosep_with_presence()
    return AudioSeparationPipeline(model=model, processor=processor, device="cpu")


def test_what_is_left_out_and_the_rest_are_the_recording(separate: Any):
    mixture: dict[str, Any] = {"array": recording(9_000), "sampling_rate": 8_000}
    rain, bell = audio(separate(mixture, queries=["rain", "bell"]))
    sources = separate(mixture, queries=["no rain", "rain", "everything but the rain and the bell"], residual=True)
    assert [source["understood_as"] for source in sources[:3]] == [
        "everything but rain",
        "rain",
        "everything but the rain and the bell",
    ]
    without, again, neither, residual = audio(sources)
    scale = float(np.abs(mixture["array"]).max())
    assert np.array_equal(again, rain)
    assert np.abs(without + rain - mixture["array"]).max() <= 4 * scale * np.finfo(np.float32).eps
    the_rain, the_bell = audio(separate(mixture, queries=["the rain", "the bell"]))
    assert np.abs(neither + the_rain + the_bell - mixture["array"]).max() <= 8 * scale * np.finfo(np.float32).eps
    assert np.abs(without + again + neither + residual - mixture["array"]).max() <= 1e-6
    assert not np.array_equal(rain, bell)


def test_silence_has_no_rest_either(separate: Any):
    silent = {"array": np.zeros((1, 9_000), np.float32), "sampling_rate": 8_000}
    (source,) = separate(silent, queries="no rain")
    assert not source["audio"].any()
    assert source["score"] == 0.0


def test_what_is_left_has_a_score_of_its_own(separate: Any):
    mixture = {"array": recording(9_000), "sampling_rate": 8_000}
    without, rain = separate(mixture, queries=["no rain", "rain"])
    assert without["score"] > 0.9, "nearly all of the recording is left by a model that was never trained"
    assert rain["score"] == separate(mixture, queries="rain")[0]["score"]


def test_a_sound_without_another_is_asked_for_without_it(separate: Any):
    mixture = {"array": recording(9_000), "sampling_rate": 8_000}
    (both,) = separate(mixture, queries="rain without dog")
    (alone,) = separate(mixture, queries="rain", negative_queries="dog")
    assert np.abs(both["audio"] - alone["audio"]).max() <= 1e-6
    assert both["understood_as"] == "rain without dog"


def classed() -> Any:
    """A model that knows rain, dog and bell by heart: its classifier looks at the embeddings of these words."""
    model, processor = tiny_audiosep(query_classes=["rain", "dog", "bell", ELSE], query_hidden_size=16)
    with torch.no_grad():
        words = ["rain", "dog", "bell", "car"]
        embeds = model.encode_text(**processor(text=words, return_tensors="pt"))
        network: Any = model.query_network
        hidden = torch.nn.functional.leaky_relu(network.linear1(network.norm(embeds)), 0.01)
        network.linear2.weight.copy_(torch.linalg.lstsq(hidden, 40 * torch.eye(4)).solution.T)
        network.linear2.bias.zero_()
    return AudioSeparationPipeline(model=model, processor=processor, device="cpu")


def test_a_model_that_knows_sounds_says_what_it_took_the_words_for():
    separate = classed()
    mixture = {"array": recording(9_000), "sampling_rate": 8_000}
    sources = separate(mixture, queries=["rain", "no dog", "car", "no car"], residual=True)
    assert [source.get("understood_as", "-") for source in sources] == ["rain", "everything but dog", None, None, "-"]
    assert [source.get("nearest") in {"rain", "dog", "bell"} for source in sources] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert sources[2]["score"] < 0.5, "what is not understood cannot be found"


def test_a_model_that_knows_sounds_is_asked_for_each_of_several():
    separate = classed()
    mixture = {"array": recording(9_000), "sampling_rate": 8_000}
    rain, dog, both, car = separate(mixture, queries=["rain", "dog", "dog and rain", "rain and car"])
    assert both["understood_as"] == "dog and rain"
    assert np.abs(both["audio"] - rain["audio"] - dog["audio"]).max() <= 1e-6
    assert car["understood_as"] != "rain and car", "one that is not known cannot be asked for"


def test_files_say_what_was_understood(separate: Any, tmp_path: Any):
    mixture = {"array": recording(9_000), "sampling_rate": 8_000}
    (written,) = separate.separate_file(mixture, tmp_path, queries="no rain")
    assert written["understood_as"] == "everything but rain"
    assert written["path"].is_file()


def test_the_command_says_what_it_took_words_for(tmp_path: Any, capsys: pytest.CaptureFixture[str]):
    separate = classed()
    separate.save_pretrained(tmp_path / "model")
    sf.write(tmp_path / "street.wav", recording(9_000)[0] / 8, 8_000, subtype="PCM_16")
    call = ["separate", str(tmp_path / "street.wav"), "--model", str(tmp_path / "model")]
    assert main([*call, "-o", str(tmp_path / "first"), "-q", "no dog", "-q", "rain", "--residual"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("  taken as: everything but dog") or "  taken as: everything but dog  " in printed[0]
    assert "taken as" not in printed[1]
    assert "understood" not in printed[2], "the residual is no query"
    assert main([*call, "-o", str(tmp_path / "second"), "-q", "no dog", "-q", "dog"]) == 0
    samples = [sf.read(tmp_path / f"second/street/{name}.wav", dtype="int16")[0] for name in ("no_dog", "dog")]
    mixture = sf.read(tmp_path / "street.wav", dtype="int16")[0]
    assert np.array_equal(samples[0].astype(int) + samples[1], mixture), "files of integers add up to the last bit"
    capsys.readouterr()
    assert main([*call, "-o", str(tmp_path / "third"), "-q", "car", "-q", "rain"]) == 3
    said = capsys.readouterr()
    assert "  no sound this model knows; nearest: " in said.out.splitlines()[0]
    assert said.err.startswith("not understood: 'car' is no sound this model knows; the nearest is ")
    assert said.err.endswith("; expect an almost silent file\n")
    outputs = json.loads((tmp_path / "third/street/separated.json").read_text())["outputs"]
    assert [output["understood_as"] for output in outputs] == [None, "rain"]
    assert main([*call, "-o", str(tmp_path / "fourth"), "-q", "no car"]) == 3
    assert capsys.readouterr().err.endswith("; expect the recording as it was\n")
