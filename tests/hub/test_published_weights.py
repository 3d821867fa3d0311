# SPDX-License-Identifier: Apache-2.0
"""Whole files under the names they are published by: random weights of published size, and the golden ones.

They come from a Hub and an address on 127.0.0.1, and go all the way: fetched, converted in a process, kept, opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import published_audiomae
import published_audiosep
import published_conv_tasnet
import published_meta_tasnet
import published_sepformer
import published_spleeter
import pytest
import torch
from file_server import serving
from hub_server import HubServer
from published_rows import MAKE, command_words
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForPreTraining

from hubsep import (
    AutoModelForAudioSeparation,
    ConvTasNetConfig,
    ConvTasNetForAudioSeparation,
    SpleeterConfig,
    SpleeterForAudioSeparation,
    pipeline,
)
from hubsep.cli.main import main
from hubsep.conversion import convert
from hubsep.hub import published as table
from hubsep.hub.converting import options_of
from hubsep.hub.published import published
from hubsep.models.sepformer.configuration_sepformer import SepFormerConfig
from hubsep.models.sepformer.modeling_sepformer import SepFormerForAudioSeparation


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_200),  # on a machine shared by twenty others
    pytest.mark.filterwarnings("ignore:the weights do not tell these"),
]
Serve = Callable[..., None]


@pytest.fixture
def serve(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Publishes files where a row of the table says, or as near to it as one computer allows."""
    with ExitStack() as stack:

        def publish(
            name: str, files: list[Path], untold: Mapping[str, Any] | None = None, tokenizer: Path | None = None
        ) -> None:
            row = replace(published()[name], options={**published()[name].options, **(untold or {})})
            if row.address is None:
                hub.publish(str(row.repository), {file.name: file.read_bytes() for file in files})
            else:
                url, handler = stack.enter_context(serving())
                handler.content = files[0].read_bytes()
                row = replace(row, address=f"{url.rpartition('/')[0]}/{row.address.rpartition('/')[2]}")
            if tokenizer is not None:
                contents = {path.name: path.read_bytes() for path in tokenizer.iterdir()}
                hub.publish(row.companions["tokenizer"], contents)
            rows = {**published(), name: row}
            monkeypatch.setattr(table, "published", lambda: rows)

        yield publish


def published_sepformer_files(place: Path) -> list[Path]:
    folder = published_sepformer.folder_of(place / "full", SepFormerForAudioSeparation(SepFormerConfig()))
    return [folder / name for name in published()["speechbrain/sepformer-wsj02mix"].files]


def published_conv_tasnet_files(place: Path) -> list[Path]:
    config = ConvTasNetConfig(kernel_size=32, stride=16, sampling_rate=16_000)
    model = ConvTasNetForAudioSeparation(config)
    return [published_conv_tasnet.write_model(place / "pytorch_model.bin", model)]


def published_spleeter_files(place: Path) -> list[Path]:
    tensors = published_spleeter.tensors_of(SpleeterForAudioSeparation(SpleeterConfig()))
    return [published_spleeter.write_published(place / "2stems.tar.gz", tensors)]


PUBLISHED_SIZE: dict[str, Callable[[Path], list[Path]]] = {
    "speechbrain/sepformer-wsj02mix": published_sepformer_files,
    "JorisCos/ConvTasNet_Libri2Mix_sepclean_16k": published_conv_tasnet_files,
    "spleeter:2stems": published_spleeter_files,
}


@pytest.mark.parametrize("name", PUBLISHED_SIZE)
def test_random_weights_of_the_published_size(name: str, serve: Serve, tmp_path: Path) -> None:
    row = published()[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        files = PUBLISHED_SIZE[name](tmp_path)
    # an archive is compressed, which takes a tenth off random weights at most
    assert sum(file.stat().st_size for file in files) == pytest.approx(1e6 * (row.megabytes or 0), rel=0.1)
    serve(name, files)
    mixture = np.random.default_rng(0).uniform(-0.3, 0.3, row.sampling_rate).astype("f")
    recording = {"array": mixture, "sampling_rate": row.sampling_rate}
    found = pipeline("audio-separation", model=name, device="cpu")(recording)
    system: Any = row.system
    convert(system, files[0].parent if len(files) > 1 else files[0], tmp_path / "local", licence=row.licence)
    expected = pipeline("audio-separation", model=str(tmp_path / "local"), device="cpu")(recording)
    for source, other in zip(found, expected, strict=True):
        assert np.isfinite(source["audio"]).all()
        assert source["audio"].any()
        assert np.array_equal(source["audio"], other["audio"])


def test_what_another_library_opens_is_converted_by_its_name(serve: Serve, tmp_path: Path) -> None:
    row = published()["haoheliu/audioldm_48k"]
    tiny = MAKE[row.system](row, tmp_path)
    serve(row.name, tiny.files, tiny.untold, Path(tiny.companions["tokenizer"]))
    pipe = convert(row.name, output=tmp_path / "out")
    assert f"{type(pipe).__module__.partition('.')[0]}.{type(pipe).__name__}" == row.opened_with


@dataclass(frozen=True)
class Golden:
    """Files with the weights of golden vectors, and what they have to give.

    Attributes:
        folder: of the vectors.
        write: takes it and a place, gives the files as they are published.
        check: takes the model and the folder.
        untold: what published sizes tell, and those of the vectors do not.
    """

    folder: str
    write: Callable[[Path, Path], list[Path]]
    check: Callable[[Any, Path], None]
    untold: Mapping[str, Any] = field(default_factory=dict)


def vectors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "io.safetensors")


def golden_sepformer(folder: str) -> Golden:
    def write(vectors_at: Path, place: Path) -> list[Path]:
        source = published_sepformer.golden_folder(place, "", vectors_at)
        return [source / name for name in published()["speechbrain/sepformer-wsj02mix"].files]

    return Golden(folder, write, lambda model, at: published_sepformer.assert_golden(model, vectors(at)))


def golden_conv_tasnet(case: str, file: str) -> Golden:
    def write(vectors_at: Path, place: Path) -> list[Path]:
        return [published_conv_tasnet.write(place / file, case)]

    def check(model: Any, vectors_at: Path) -> None:
        published_conv_tasnet.assert_golden(model, vectors(vectors_at))

    return Golden(f"conv_tasnet-{case}", write, check, published_conv_tasnet.overrides(case))


def golden_spleeter(case: str) -> Golden:
    def write(vectors_at: Path, place: Path) -> list[Path]:
        files = {path.name: path.read_bytes() for path in (vectors_at / "ckpt").iterdir()}
        return [published_spleeter.write_archive(place / "2stems.tar.gz", files)]

    def check(model: Any, vectors_at: Path) -> None:
        published_spleeter.assert_golden(model, published_spleeter.shared_io(vectors_at, case))

    return Golden("spleeter", write, check)


def write_audiosep(vectors_at: Path, place: Path) -> list[Path]:
    separator = {**load_file(vectors_at / "state_dict.safetensors"), **published_audiosep.kernels()}
    whole = {**published_audiosep.whole(), **{f"ss_model.{name}": tensor for name, tensor in separator.items()}}
    return [published_audiosep.write_lightning(place / "audiosep_base_4M_steps.ckpt", whole)]


def check_audiosep(model: Any, vectors_at: Path) -> None:
    golden = vectors(vectors_at)
    waveform = published_audiosep.separate(model, golden["mixture"], golden["condition"])
    published_audiosep.assert_golden(waveform, golden["waveform"])


def write_meta_tasnet(vectors_at: Path, place: Path) -> list[Path]:
    state = load_file(vectors_at / "state_dict.safetensors")
    return [published_meta_tasnet.write(place / "best_model.pt", state, vectors_at)]


def write_audiomae(vectors_at: Path, place: Path) -> list[Path]:
    return [published_audiomae.write(place / "pretrained.pth", load_file(vectors_at / "weights.safetensors"))]


def write_inside(vectors_at: Path, place: Path) -> list[Path]:
    """AudioLDM 2's file, which holds an encoder of AudioMAE."""
    state = load_file(vectors_at / "weights.safetensors")
    return [published_audiomae.write_inside(place / "audioldm2-full.pth", state)]


BY_NAME: dict[str, Golden] = {
    "speechbrain/sepformer-wsj02mix": golden_sepformer("sepformer"),
    "speechbrain/sepformer-wsj03mix": golden_sepformer("sepformer-3spk"),
    "speechbrain/sepformer-wham-enhancement": golden_sepformer("sepformer-1spk"),
    "JorisCos/ConvTasNet_Libri2Mix_sepclean_16k": golden_conv_tasnet("asteroid", "pytorch_model.bin"),
    "torchaudio:conv_tasnet_base_libri2mix": golden_conv_tasnet("torchaudio", "conv_tasnet_base_libri2mix.pt"),
    "spleeter:2stems": golden_spleeter("full"),
    "spleeter:2stems-16kHz": golden_spleeter("full_16khz"),
    "audo/AudioSep": Golden("audiosep", write_audiosep, check_audiosep, published_audiosep.OVERRIDES),
}
ENCODER_HEADS = {"num_attention_heads": 4}
HEADS = {**ENCODER_HEADS, "decoder_num_attention_heads": 4}
META_TASNET, AUDIOMAE = "pfnet-research/meta-tasnet", "facebookresearch/AudioMAE"
BY_HAND: list[tuple[str, Any, Golden]] = [
    (META_TASNET, AutoModelForAudioSeparation, Golden(
        "meta_tasnet", write_meta_tasnet, lambda model, at: published_meta_tasnet.assert_stages(model, vectors(at))
    )),
    (AUDIOMAE, AutoModelForPreTraining, Golden(
        "audioldm2/audiomae_pretrain_global", write_audiomae,
        lambda model, at: published_audiomae.assert_patches(model, vectors(at)), HEADS,
    )),
    (AUDIOMAE, AutoModelForPreTraining, Golden(
        "audioldm2/audiomae_pretrain_swin", write_audiomae,
        lambda model, at: published_audiomae.assert_patches(model, vectors(at)), ENCODER_HEADS,
    )),
    (AUDIOMAE, AutoModel, Golden(
        "audioldm2/audiomae_encoder", write_inside,
        lambda model, at: published_audiomae.assert_language(model, vectors(at), [[8, 8], [2, 8]]), ENCODER_HEADS,
    )),
]  # fmt: skip


@pytest.mark.needs_shared
@torch.no_grad()
@pytest.mark.parametrize("name", BY_NAME)
def test_golden_files_that_are_opened_by_name(name: str, serve: Serve, shared: Path, tmp_path: Path) -> None:
    golden = BY_NAME[name]
    folder = shared / "golden" / golden.folder
    tokenizer = None
    if "tokenizer" in published()[name].companions:
        tokenizer = published_audiosep.write_tokenizer(tmp_path / "tokenizer")
    serve(name, golden.write(folder, tmp_path), golden.untold, tokenizer)
    golden.check(AutoModelForAudioSeparation.from_pretrained(name), folder)


@pytest.mark.needs_shared
@torch.no_grad()
@pytest.mark.parametrize(("name", "kind", "golden"), BY_HAND, ids=[golden.folder for _, _, golden in BY_HAND])
def test_golden_files_that_are_opened_after_a_command(
    name: str, kind: Any, golden: Golden, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "golden" / golden.folder
    row = published()[name]
    (file,) = golden.write(folder, tmp_path)
    words = command_words(row, file, tmp_path / "model", {**options_of(row, {}), **golden.untold})
    assert main(words) == 0, capsys.readouterr().err
    golden.check(kind.from_pretrained(tmp_path / "model"), folder)
