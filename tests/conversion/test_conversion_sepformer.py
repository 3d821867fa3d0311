# SPDX-License-Identifier: Apache-2.0
"""SepFormer's conversion: the numbers of the original from folders as they are published.

The golden vectors come from the original's own code; `golden/sepformer/README.md` says how.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from promises_conversion import Canary, ConversionPromises, digests
from published_sepformer import (
    GOLDEN,
    HYPERPARAMETERS,
    UNTOLD,
    assert_golden,
    golden_config,
    golden_folder,
    golden_tensors,
    write_file,
    write_folder,
)
from safetensors.torch import load_file, save_file

from hubsep import AutoModelForAudioSeparation
from hubsep.cli import main
from hubsep.conversion import convert, sepformer
from hubsep.conversion.common import rename, weights_file
from hubsep.errors import ConversionError
from hubsep.models.sepformer.configuration_sepformer import SepFormerConfig
from hubsep.models.sepformer.modeling_sepformer import SepFormerForAudioSeparation


class TestPromises(ConversionPromises):
    model_type = "sepformer"
    tensors = staticmethod(golden_tensors)
    write = staticmethod(write_file)
    damaged = ("masknet.end_conv1x1.weight", "masker.head.weight")

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        return UNTOLD


@pytest.mark.parametrize("case", ["1spk", "3spk"])
def test_a_published_folder_gives_the_waveforms_of_the_original(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = golden_folder(tmp_path, case)
    command = ["convert", "sepformer", str(source), str(tmp_path / "ours"), "--licence", "apache-2.0"]
    assert main(command) == 0, capsys.readouterr().err
    model = AutoModelForAudioSeparation.from_pretrained(tmp_path / "ours")
    assert_golden(model, load_file(GOLDEN / f"{case}_io.safetensors"))
    assert model.config.sampling_rate == 8_000
    assert model.config.source_names[0] == ("speech" if case == "1spk" else "speaker 1")
    card = (tmp_path / "ours" / "README.md").read_text()
    assert all(f"`{name}`" in card for name in ("encoder.ckpt", "masknet.ckpt", "decoder.ckpt", "hyperparams.yaml"))
    assert main([*command[:3], str(tmp_path / "again"), *command[4:]]) == 0
    assert digests(tmp_path / "again") == digests(tmp_path / "ours")


@pytest.mark.needs_shared
def test_two_speakers_and_two_blocks(tmp_path: Path, shared: Path):
    folder = shared / "golden" / "sepformer"
    model = convert("sepformer", golden_folder(tmp_path, "", folder))
    assert model.config.num_blocks == 2
    assert_golden(model, load_file(folder / "io.safetensors"))


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "num_sources", "parameters"),
    [("wsj02mix", 2, 25_679_361), ("wsj03mix", 3, 25_745_153), ("whamr-enhancement", 1, 25_613_569)],
)
def test_every_published_key_has_its_place(name: str, num_sources: int, parameters: int, shared: Path):
    folder, published = shared / "golden" / "sepformer", {}
    for part in sepformer.PARTS:
        manifest = json.loads((folder / f"manifest_{name}_{part}.json").read_text())
        for key, (shape, _) in manifest.items():
            published[f"{part}.{key}"] = torch.empty(shape, device="meta")
    mapped = {key: sepformer._as_matrix(key, value) for key, value in rename(published, sepformer.KEYS).items()}
    with torch.device("meta"):
        model = SepFormerForAudioSeparation(SepFormerConfig(num_sources=num_sources))
    assert {key: tensor.shape for key, tensor in mapped.items()} == {
        key: tensor.shape for key, tensor in model.state_dict().items()
    }
    assert model.num_parameters() == parameters
    assert sepformer._sizes(published) == {key: getattr(model.config, key) for key in sepformer._sizes(published)}


HOSTILE = [
    "evil: !!python/object/apply:os.system ['touch {canary}']",
    "evil: !!python/object/new:os.system ['touch {canary}']",
    "evil: !new:os.system\n    command: touch {canary}",
    "evil: !apply:os.system ['touch {canary}']",
    "? !!python/object/apply:os.system ['touch {canary}']\n: 1",
]


def test_hyperparameters_are_never_run(tmp_path: Path):
    canary = tmp_path / "canary"
    text = HYPERPARAMETERS.format(**golden_config())
    yaml.load(HOSTILE[0].format(canary=canary), yaml.UnsafeLoader)
    assert canary.exists(), "the trap works"
    canary.unlink()
    for number, line in enumerate(HOSTILE):
        source = write_folder(tmp_path / str(number), golden_tensors(), text + "\n" + line.format(canary=canary))
        with suppress(ConversionError):
            assert convert("sepformer", source).config.num_sources == 3
        assert not canary.exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("num_spks: 3", "num_spks: 2", "num_sources is 3 in the weights; it cannot be 2"),
        ("kernel_size: 16\n    out", "kernel_size: 32\n    out", "Encoder.kernel_size of hyperparams.yaml"),
        ("nhead: 4\n    d_ffn: 48", "nhead: 8\n    d_ffn: 48", "num_attention_heads is 8"),
        ("nhead: 4", "nhead: 5", "hidden_size is 32; it must divide by 5"),
        ("K: 50", "K: 51", "chunk_size is 51; it must divide by 2"),
        ("norm: ln", "norm: bn", "MaskNet.norm is 'bn'"),
        ("norm: ln", "norm: [ln]", "MaskNet.norm is a list"),
        ("norm_before: True", "norm_before: False", "MaskNet.intra_model.norm_before is False"),
        ("skip_around_intra: True", "skip_around_intra: False", "skip_around_intra is False"),
        ("sample_rate: 8000", "", "set sampling_rate=8000 or sampling_rate=16000"),
        ("K: 50", "", "set chunk_size=N"),
        ("num_spks: 3", "[", "is not YAML"),
        ("num_spks: 3", "num_spks: " + "9" * 5_000, "is not YAML"),
        ("num_spks: 3", "deep: " + "[" * 1_500, "is not YAML"),
        ("num_spks: 3", "#" * 300_000, "at most 262144 are read"),
    ],
)
def test_contradictions_are_errors(old: str, new: str, says: str, tmp_path: Path):
    text = HYPERPARAMETERS.format(**golden_config())
    changed = text.replace(old, new, 1 if "nhead: 8" in new else -1)
    assert changed != text
    source = write_folder(tmp_path / "source", golden_tensors(), changed)
    with pytest.raises(ConversionError, match=says):
        convert("sepformer", source)


def test_references_and_merge_keys(tmp_path: Path):
    text = HYPERPARAMETERS.format(**golden_config())
    circle = "a: !ref <b>\nb: !ref <a>\n" + text.replace("K: 50", "K: !ref <a>")
    with pytest.raises(ConversionError, match="set chunk_size=N"):
        convert("sepformer", write_folder(tmp_path / "circle", golden_tensors(), circle))
    expression = text.replace("K: 50", "K: !ref <kernel_size> * 3")
    with pytest.raises(ConversionError, match="set chunk_size=N"):
        convert("sepformer", write_folder(tmp_path / "expression", golden_tensors(), expression))
    bomb = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
    )
    model = convert("sepformer", write_folder(tmp_path / "bomb", golden_tensors(), bomb + text))
    assert model.config.chunk_size == 50


def test_settings_beside_the_files(tmp_path: Path):
    tensors, text = golden_tensors(), HYPERPARAMETERS.format(**golden_config())
    source = write_folder(tmp_path / "bare", tensors, None)
    with pytest.raises(ConversionError, match="set num_attention_heads=N"):
        convert("sepformer", source)
    wide = convert("sepformer", source, **{**UNTOLD, "sampling_rate": 16_000})
    assert (wide.config.segment_samples, wide.config.overlap_samples) == (256_000, 64_000)
    stated = write_folder(tmp_path / "stated", tensors, text)
    with pytest.raises(ConversionError, match="sampling_rate is 8000 in sample_rate of hyperparams"):
        convert("sepformer", stated, sampling_rate=16_000)
    assert convert("sepformer", stated, segment_samples=64_000).config.segment_samples == 64_000


@pytest.mark.parametrize("change", ["another", "absent", "shape"])
def test_position_tables_are_checked_before_they_are_left_out(change: str, tmp_path: Path):
    tensors = golden_tensors()
    name = "masknet.dual_mdl.0.inter_mdl.pos_enc.pe"
    if change == "another":
        tensors[name][0, 7, 3] += 1e-3
    elif change == "absent":
        del tensors[name]
    else:
        tensors[name] = tensors[name][..., :16]
    with pytest.raises(ConversionError, match=r"inter_mdl\.pos_enc\.pe"):
        convert("sepformer", write_file(tmp_path / "changed.ckpt", tensors), **UNTOLD)


def test_incomplete_and_foreign_sources(tmp_path: Path):
    source = golden_folder(tmp_path)
    with pytest.raises(ConversionError, match="give the folder it lies in"):
        convert("sepformer", source / "masknet.ckpt", **UNTOLD)
    (source / "decoder.ckpt").unlink()
    with pytest.raises(ConversionError, match=r"holds no decoder\.ckpt"):
        convert("sepformer", source)
    convert("sepformer", golden_folder(tmp_path / "other")).save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match="hubsep model already"):
        convert("sepformer", tmp_path / "ours")
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match="holds no whole SepFormer, but 'encoder"):
        convert("sepformer", tmp_path / "other.safetensors")


@pytest.mark.parametrize("part", sepformer.PARTS)
def test_a_part_that_runs_code_is_refused(part: str, tmp_path: Path):
    source = golden_folder(tmp_path)
    torch.save({"weight": Canary(tmp_path / "canary")}, source / f"{part}.ckpt")
    with pytest.raises(ConversionError, match=rf"{part}\.ckpt' was not opened"):
        convert("sepformer", source)
    assert not (tmp_path / "canary").exists()


def test_half_precision_is_stored_as_float32(tmp_path: Path):
    whole = convert("sepformer", golden_folder(tmp_path))
    halves = {name: tensor if "pos_enc" in name else tensor.half() for name, tensor in golden_tensors().items()}
    halved = convert("sepformer", write_file(tmp_path / "half.ckpt", halves), **UNTOLD)
    assert halved.masker.head.weight.dtype == torch.float32
    torch.testing.assert_close(halved.masker.head.weight, whole.masker.head.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "content", ["[" * 200_000, "9" * 5_000, " " * (2 << 20), "{", "pipe"], ids=["deep", "long", "large", "{", "pipe"]
)
def test_a_folder_is_refused_by_the_name_of_its_config(content: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    if content == "pipe":
        os.mkfifo(config)
    else:
        config.write_text(content)
    (tmp_path / "weights.ckpt").touch()
    if content == "pipe":
        assert weights_file(tmp_path, "sepformer", ("weights.ckpt", "x")).name == "weights.ckpt"
        return
    with pytest.raises(ConversionError, match=r"config.json"):
        weights_file(tmp_path, "sepformer", ("weights.ckpt", "x"))
