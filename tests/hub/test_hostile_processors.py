# SPDX-License-Identifier: Apache-2.0
"""Processors, tokenizers and sizes that are broken or hostile: no code runs, nothing else opens, one clear error."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

import diffusers.utils.constants
import pytest
import torch
import transformers
from children import Children
from hostile_processors import GENERATORS, OF_CODE, OF_PROCESSORS, QUERIED, evil, replaced
from tiny_audiosep import tiny_audiosep

import hubsep
from hubsep import AudioSepProcessor
from hubsep.errors import CheckpointError
from hubsep.hub import check_folder
from hubsep.hub import tokenizers as hub_tokenizers
from hubsep.hub.files import IGNORE_VARIABLE, is_checked, is_unread
from hubsep.hub.tokenizers import GROWTH, MAX_MAPPED, check_tokenizer, check_vocabulary_file
from hubsep.models.audiomae.configuration_audiomae import AudioMAEConfig
from hubsep.models.audiomae.feature_extraction_audiomae import AudioMAEFeatureExtractor
from hubsep.models.audioslots.configuration_audioslots import AudioSlotsConfig
from hubsep.models.conv_tasnet.configuration_conv_tasnet import ConvTasNetConfig
from hubsep.models.griffin_lim.configuration_griffin_lim import GriffinLimVocoderConfig
from hubsep.models.meta_tasnet.configuration_meta_tasnet import MetaTasNetConfig
from hubsep.models.sepformer.configuration_sepformer import SepFormerConfig
from hubsep.models.sound_classifier.configuration_sound_classifier import SoundClassifierConfig
from hubsep.models.spleeter.configuration_spleeter import SpleeterConfig
from hubsep.shipped import SHIPPED


Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    children = Children("hostile_processors_child")
    yield children
    children.close()


def attempts(child: Children, place: Path, way: str) -> Results:
    status, results, output = child.run("attempts", str(place), way)
    assert status == 0, f"the process ended in {output[-3_000:]}"
    return dict(results)


@pytest.fixture(scope="module")
def queried(child: Children, place: Path) -> Results:
    return attempts(child, place, "queried")


@pytest.fixture(scope="module")
def plain(child: Children, place: Path) -> Results:
    return attempts(child, place, "plain")


@pytest.fixture(scope="module")
def processor(child: Children, place: Path) -> Results:
    return attempts(child, place, "processor")


@pytest.fixture(scope="module")
def generator(child: Children, place: Path) -> Results:
    return attempts(child, place, "generator")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in tiny_audiosep():
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def check(result: dict[str, Any], message: str) -> None:
    assert not result["ran"]
    assert result["error"] == "CheckpointError", result
    assert re.search(message, result["message"]), result["message"]
    assert len(result["message"]) < 700
    assert result["megabytes"] < 64


@pytest.mark.slow
@pytest.mark.parametrize("case", QUERIED)
def test_a_text_queried_model_is_refused(case: str, queried: Results) -> None:
    check(queried[case], QUERIED[case][1])


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_CODE)
def test_plain_transformers_runs_no_code(case: str, plain: Results) -> None:
    """Its `pipeline` puts what a model's class says about a folder into an error of its own."""
    assert not plain[case]["ran"]
    text = f"{plain[case]['error']}: {plain[case]['message']}"
    assert re.search(rf"CheckpointError: .*({OF_CODE[case][1]})", text), text


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_PROCESSORS)
def test_a_processor_by_itself_is_refused(case: str, processor: Results) -> None:
    check(processor[case], OF_PROCESSORS[case][1])


@pytest.mark.slow
@pytest.mark.parametrize("case", GENERATORS)
def test_an_audioldm2_is_refused(case: str, generator: Results) -> None:
    check(generator[case], GENERATORS[case][1])


FILES = (
    "README.md LICENSE .gitattributes .DS_Store curve.png training_args.bin optimizer.pt scheduler.pt rng_state.pth "
    "trainer_state.json all_results.json notes.py train.ipynb requirements.txt pytorch_model.bin.index.json "
    "examples/rain.wav examples/rain.txt runs/events.out.tfevents.1.host logs/train.csv checkpoint-5/anything.json "
    ".cache/huggingface/x.json model.onnx model.gguf evaluation.json .eval_results/hubsep.yaml hparams.yaml"
).split()


def test_what_lies_in_the_folders_of_users_may_lie_there(folder: Path) -> None:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"never read")
    evil(folder)
    separate = hubsep.pipeline(model=folder, device="cpu")
    sources = separate(torch.ones(4_000), sampling_rate=8_000, queries="rain")
    assert [source["label"] for source in sources] == ["rain"]
    assert not (folder.parent / "canary").exists()


@pytest.mark.parametrize(
    "name",
    """test_results.json my-split_results.json ds_config.json latest labels.json hparams.json id2label.json README.ja
    LICENSE.apache COPYRIGHT THIRD-PARTY-NOTICES.txt Procfile Pipfile openvino_model.xml talk.rttm talk.TextGrid
    clip.aifc clip.wma notes.docx notes.md~ Thumbs.db nohup.out slurm-1.err SHA256SUMS model.safetensors.metadata
    model.safetensors.incomplete ._model.safetensors model.nemo model.pdparams samples/metadata.json
    wandb/files/wandb-summary.json onnx/quantize.json mlruns/0/metrics/loss coreml/Model.mlpackage/Manifest.json
    venv/lib/x.so""".split(),
)  # fmt: skip
def test_no_file_that_nothing_looks_for_is_refused(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"never read")
    check_folder(folder, finite=False)


def test_links_that_stay_in_the_folder_are_no_links_to_elsewhere(folder: Path, tmp_path: Path) -> None:
    (folder / "checkpoint-10").mkdir()
    (folder / "runs" / "1").mkdir(parents=True)
    (folder / "model.safetensors").rename(folder / "checkpoint-10" / "model.safetensors")
    (folder / "model.safetensors").symlink_to("checkpoint-10/model.safetensors")
    (folder / "checkpoint-last").symlink_to("checkpoint-10")
    (folder / "runs" / "latest").symlink_to(folder / "runs" / "1")
    hubsep.pipeline(model=folder, device="cpu")
    (folder / "part").symlink_to("runs")
    with pytest.raises(CheckpointError, match="part' is a link to something that is not a regular file"):
        check_folder(folder)
    (folder / "part").unlink()
    (folder / "checkpoint-other").symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="checkpoint-other' is a link to a place outside"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("prefix", "second"), [("##", "\u72ac"), ("##", "b"), ("##", ""), ("\u2581", "\u2581b"), ("a", "\u2581")]
)
def test_a_merge_is_not_cut_where_its_second_part_has_no_prefix(prefix: str, second: str) -> None:
    tokens = {token: number for number, token in enumerate(sorted({"a", second, "a" + second.removeprefix(prefix)}))}
    model = {"type": "BPE", "vocab": tokens, "merges": [["a", second]], "continuing_subword_prefix": prefix}
    with pytest.raises(CheckpointError, match="second part must begin with continuing_subword_prefix"):
        check_tokenizer("tokenizer.json", {"added_tokens": [], "model": model})


def test_a_merge_with_its_prefix_is_read() -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "##b": 1, "ab": 2}, "merges": [["a", "##b"]]}
    check_tokenizer("tokenizer.json", {"added_tokens": [], "model": {**model, "continuing_subword_prefix": "##"}})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", b"a\n" * 1_001),
        ("vocab.txt", b"\r" * 1_001),
        ("vocab.txt", b"\r\n" * 1_001),
        ("merges.txt", b"a b\n" * 1_002),
        ("spiece.model", b"\n\0" * 1_001),
        ("spiece.model", b"\x08\1" * 1_001),
    ],
)
def test_vocabularies_that_are_no_json_are_counted_before_they_are_read(
    name: str, content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("MAX_TOKENS", "MAX_MERGES"):
        monkeypatch.setattr(hub_tokenizers, limit, 1_000)
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}' holds more than .* tokens"):
        check_folder(folder)
    (folder / name).write_bytes(content[:1_000])
    check_folder(folder)


@pytest.mark.parametrize(
    "content", [b"\n", b"\n\5abc", b"\n\xff", b"\n" + b"\xff" * 20, b"\x0b", b"\x0d\0", b"\x09\0"]
)
def test_a_broken_model_of_sentencepiece_is_one_error(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="no model of SentencePiece"):
        check_vocabulary_file("'spiece.model'", "spiece.model", content)


def test_a_model_of_sentencepiece_is_counted_as_it_is_stored() -> None:
    piece = b"\n\x81\1" + bytes(129)  # a length of two bytes
    check_vocabulary_file("x", "spiece.model", piece * 3 + b"\x10\x85\1" + b"\x19" + bytes(8) + b"\x1d" + bytes(4))


def test_no_character_grows_more_than_is_counted_with() -> None:
    letters = [chr(code) for code in range(1, 0x30000) if not 0xD800 <= code < 0xE000]
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        grown = max(len(normalize(form, letter).encode()) / len(letter.encode()) for letter in letters)
        assert grown <= GROWTH[form], form
    assert max(len(letter.lower().encode()) / len(letter.encode()) for letter in letters) <= GROWTH["Lowercase"]
    assert max(len(normalize("NFKC", letter).encode()) for letter in letters) <= MAX_MAPPED


@pytest.mark.parametrize("named", ["notes.json", "*otes.json", "other.json, n?tes.json"])
def test_a_user_can_have_a_file_ignored(named: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "notes.json").write_text("not even JSON")
    with pytest.raises(CheckpointError, match=f"notes.json.*{IGNORE_VARIABLE}"):
        check_folder(folder)
    monkeypatch.setenv(IGNORE_VARIABLE, named)
    check_folder(folder)
    replaced("audio_tokenizer_config.json", {})(folder)
    monkeypatch.setenv(IGNORE_VARIABLE, "*")
    with pytest.raises(CheckpointError, match=r"audio_tokenizer_config.json"):
        check_folder(folder)


def test_no_name_a_library_looks_for_passes_unchecked() -> None:
    """Files of JSON that transformers, diffusers and huggingface_hub know: read and checked, or refused."""
    import huggingface_hub.constants
    from transformers import processing_utils, tokenization_utils_base, utils

    modules = (
        utils, utils.hub, processing_utils, tokenization_utils_base,
        diffusers.utils.constants, huggingface_hub.constants,
    )  # fmt: skip
    names = {str(value) for module in modules for key, value in vars(module).items() if key.isupper()}
    looked_for = {name for name in names if name.endswith((".json", ".jinja")) and "/" not in name}
    assert {"video_preprocessor_config.json", "audio_tokenizer_config.json", "tokenizer.json"} <= looked_for
    unread = {name for name in looked_for if not is_checked(name) and is_unread(name)}
    assert unread <= {"modelcard.json", "pytorch_model.bin.index.json", "diffusion_pytorch_model.bin.index.json",
                      "flax_model.msgpack.index.json", "tf_model.h5.index.json"}  # fmt: skip


def test_published_tokenizers_keep_their_old_fields(tmp_path: Path) -> None:
    from tiny_audioldm2 import published_folder

    folder = published_folder(tmp_path / "model")
    for name in ("tokenizer", "tokenizer_2"):
        path = folder / name / "tokenizer_config.json"
        fields = json.loads(path.read_text())
        path.write_text(json.dumps({
            **fields, "name_or_path": "someone/model", "special_tokens_map_file": "/elsewhere/special.json",
            "clean_up_tokenization_spaces": True, "model_max_length": int(1e30), "tokenizer_file": None,
            "bos_token": None, "pad_token": {"__type": "AddedToken", "content": "<pad>", "lstrip": False,
                                             "normalized": True, "rstrip": False, "single_word": False},
        }))  # fmt: skip
        (folder / name / "special_tokens_map.json").write_text('{"pad_token": "<pad>", "unk_token": "<unk>"}')
    shutil.copy(folder / "tokenizer" / "tokenizer.json", tmp_path)
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    path = folder / "feature_extractor" / "preprocessor_config.json"
    older = {"chunk_length_s": 1, "n_fft": 256, "nb_max_frames": 100, "processor_class": "ClapProcessor"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **older}))
    pipe = hubsep.AudioLDM2Pipeline.from_pretrained(folder)
    assert pipe.tokenizer.pad_token == pipe.tokenizer_2.pad_token == "<pad>"
    assert pipe.tokenizer.model_max_length == 80 - 1 - 1  # what the text encoder has places for


def test_a_long_query_is_refused_and_not_an_error_of_the_encoder(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": int(1e30)}))
    separate = hubsep.pipeline(model=folder, device="cpu")
    with pytest.raises(hubsep.QueryError, match="a query may have 38 tokens, got 42"):
        separate(torch.ones(4_000), sampling_rate=8_000, queries=" ".join(["rain"] * 40))


def test_a_processor_of_another_model_is_no_error_of_the_encoder() -> None:
    model, other = tiny_audiosep()
    other.tokenizer.add_tokens(["thunder"])
    separate: Any = hubsep.AudioSeparationPipeline(model=model, processor=other, device="cpu")
    with pytest.raises(CheckpointError, match="tokens go up to 10, the model's to 9"):
        separate(torch.ones(4_000), sampling_rate=8_000, queries="thunder")


CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ConvTasNet, segment": (ConvTasNetConfig, {"segment_samples": 2**31}),
    "ConvTasNet, segment by its filters": (ConvTasNetConfig, {"segment_samples": 2**22, "stride": 1}),
    "SepFormer, segment": (SepFormerConfig, {"segment_samples": 2**31}),
    "SepFormer, chunks": (SepFormerConfig, {"chunk_size": 65_536}),
    "SepFormer, no chunks": (SepFormerConfig, {"chunk_size": 2, "segment_samples": 2**20}),
    "MetaTasNet, segment": (MetaTasNetConfig, {"segment_samples": 2**31}),
    "MetaTasNet, spectra": (MetaTasNetConfig, {"n_fft": 65_536, "hop_length": 1}),
    "Spleeter, segment": (SpleeterConfig, {"segment_samples": 2**31}),
    "Spleeter, network": (SpleeterConfig, {"segment_frames": 2**14, "num_bins": 2**15, "n_fft": 2**16}),
    "AudioSlots, segment": (AudioSlotsConfig, {"segment_samples": 2**31}),
    "AudioSlots, chunk": (AudioSlotsConfig, {"chunk_samples": 2**22}),
    "AudioSlots, hop": (AudioSlotsConfig, {"hop_length": 1}),
    "AudioMAE, patches": (AudioMAEConfig, {"patch_size": 1}),
    "AudioMAE, windows": (AudioMAEConfig, {"decoder_window_size": 64, "num_frames": 2**12, "num_mel_bins": 2**10}),
    "classifier, maps": (SoundClassifierConfig, {"num_frames": 2**15, "num_mels": 1_024, "channels": [4_096, 8]}),
    "vocoder, steps": (GriffinLimVocoderConfig, {"phase_steps": 10_000}),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_sizes_that_only_a_call_would_meet_are_bounded(case: str) -> None:
    config, fields = CONFIGS[case]
    config()
    with pytest.raises(CheckpointError, match=r"accepted|more than"):
        config(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling_rate": 0},
        {"num_frames": 2**40},
        {"num_mel_bins": "128"},
        {"std": 0.0},
        {"mean": float("nan")},
        {"x": 1},
    ],
)
def test_an_extractor_of_spectrograms_is_bounded(fields: dict[str, Any], tmp_path: Path) -> None:
    AudioMAEFeatureExtractor(num_frames=96).save_pretrained(tmp_path)
    assert AudioMAEFeatureExtractor.from_pretrained(tmp_path).num_frames == 96
    with pytest.raises(CheckpointError, match=next(iter(fields))):
        AudioMAEFeatureExtractor(**fields)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(CheckpointError, match=f"preprocessor_config.json.*{next(iter(fields))}"):
        AudioMAEFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"preprocessor_config.json.*{next(iter(fields))}"):
        transformers.AutoFeatureExtractor.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_pass(name: str) -> None:
    check_folder(SHIPPED[name], finite=False)


@pytest.mark.slow
def test_trust_remote_code_is_refused_everywhere(folder: Path) -> None:
    for load in (hubsep.pipeline, lambda model, **kwargs: AudioSepProcessor.from_pretrained(model, **kwargs)):
        with pytest.raises(CheckpointError, match="trust_remote_code=True is refused"):
            load(model=folder, trust_remote_code=True)
