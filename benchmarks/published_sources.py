# SPDX-License-Identifier: Apache-2.0
"""Sources of conversions: random weights in the published names, shapes and files.

The shapes are those of the manifests of the published files in SHARED; of AudioLDM 2, for which there is none, those
of its published sizes. A million numbers are drawn and repeated, and every tensor is the beginning of these: a file
holds some parts twice, and they must agree; and AudioLDM 2 is written without being in memory.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from hubsep.hub.tensors import window_places
from hubsep.models.sepformer.modeling_sepformer import position_table


GOLDEN = "golden"
Shapes = dict[str, tuple[int, ...]]
WIDER = 4  # times, of the larger Conv-TasNet
NARROW = 64  # sizes below it are kernels and strides, and stay
OPTIMISED_TWICE = ("exp_avg", "exp_avg_sq")  # what an optimiser keeps of each weight
BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """How a source is written and converted.

    Attributes:
        system: a `model_type` of hubsep.
        file: name of the file.
        shapes: names and shapes, from SHARED.
        fields: options of the converter.
        tokenizers: options of the converter that are folders of tokenizers.
    """

    system: str
    file: str
    shapes: Callable[[Path], Shapes]
    fields: dict[str, Any] = field(default_factory=dict)
    tokenizers: tuple[str, ...] = ()

    def settings(self, folder: Path) -> dict[str, Any]:
        """Options of the converter; what it needs of others is written to a folder."""
        if not self.tokenizers:
            return self.fields
        from audioldm2_models import tokenizers

        for name in self.tokenizers:
            tokenizers()[name].save_pretrained(folder / name)
        return {**self.fields, **{name: str(folder / name) for name in self.tokenizers}}


def read(path: Path) -> dict[str, Any]:
    """A manifest."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def first(rows: dict[str, Any]) -> Shapes:
    """Of rows of shape and kind."""
    return {name: tuple(row[0]) for name, row in rows.items()}


def sepformer(shared: Path) -> Shapes:
    """SpeechBrain's WSJ0-2Mix."""
    parts = {
        part: read(shared / f"sepformer/manifest_wsj02mix_{part}.json") for part in ("encoder", "masknet", "decoder")
    }
    return first({f"{part}.{name}": row for part, rows in parts.items() for name, row in rows.items()})


def audiomae(shared: Path) -> Shapes:
    """Encoder and decoder of ViT-B."""
    manifest = read(shared / "audioldm2/manifests/audiomae_vitb_manifest.json")
    return first({**manifest["encoder"], **manifest["decoder_global"]})


def meta_tasnet(shared: Path) -> Shapes:
    """The published one."""
    return first(read(shared / "meta_tasnet/manifest_published.json"))


def conv_tasnet(shared: Path) -> Shapes:
    """asteroid's Libri2Mix at 16 kHz."""
    return first(read(shared / "conv_tasnet-asteroid/manifest_asteroid_libri2mix_16k.json"))


def wide_conv_tasnet(shared: Path) -> Shapes:
    """The same with more channels: what does not grow with it is no part of the source."""
    return {
        name: tuple(WIDER * size if size > NARROW else size for size in shape)
        for name, shape in conv_tasnet(shared).items()
    }


def spleeter(stems: int) -> Callable[[Path], Shapes]:
    """Deezer's, of so many stems."""

    def shapes(shared: Path) -> Shapes:
        variables = read(shared / f"spleeter/manifest_{stems}stems.json")["variables"]
        return {name.replace("/", "."): tuple(shape) for name, shape in variables.items()}

    return shapes


def audiosep(shared: Path) -> Shapes:
    """The Lightning module with its query encoder."""
    return first(read(shared / "audiosep/manifest_full.json")["audiosep_lightning_module"]["state_dict"])


def audioldm2(shared: Path) -> Shapes:
    """AudioLDM 2 base, in which CLAP and T5 are twice."""
    import audioldm2_models

    from hubsep.conversion.audioldm2.back import original_tensors
    from hubsep.models.audiomae.configuration_audiomae import AudioMAEConfig
    from hubsep.models.audiomae.modeling_audiomae import AudioMAEModel

    with torch.device("meta"):
        models = {name: getattr(audioldm2_models, name)("published") for name in audioldm2_models.MODELS}
        audio_mae = AudioMAEModel(AudioMAEConfig())
    names = {
        "gpt2": "language_model",
        "t5": "text_encoder_2",
        "clap": "text_encoder",
        "projection": "projection_model",
    }
    components: dict[str, Any] = {names.get(name, name): model for name, model in models.items()}
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1_000) ** 2
    pipe = SimpleNamespace(**components, audio_mae=audio_mae, is_speech=False, scheduler=SimpleNamespace(betas=betas))
    return {name: tuple(tensor.shape) for name, tensor in original_tensors(pipe).items()}


SOURCES = {
    "audiomae": Source("audiomae", "pretrained.pth", audiomae),
    "sepformer": Source("sepformer", "sepformer.ckpt", sepformer, {"sampling_rate": 8_000}),
    "meta_tasnet": Source("meta_tasnet", "best_model.pt", meta_tasnet),
    "conv_tasnet": Source("conv_tasnet", "pytorch_model.bin", conv_tasnet, {"num_blocks": 8, "sampling_rate": 16_000}),
    "conv_tasnet_wide": Source(
        "conv_tasnet", "pytorch_model.bin", wide_conv_tasnet, {"num_blocks": 8, "sampling_rate": 16_000}
    ),
    **{f"spleeter_{stems}stems": Source("spleeter", f"{stems}stems.tar.gz", spleeter(stems)) for stems in (2, 4, 5)},
    "audiosep": Source("audiosep", "audiosep_base_4M_steps.ckpt", audiosep, tokenizers=("tokenizer",)),
    "audioldm2": Source("audioldm2", "audioldm2-full.pth", audioldm2, tokenizers=("tokenizer", "tokenizer_2")),
}


def random_tensor(name: str, shape: tuple[int, ...], numbers: memoryview) -> Tensor:
    """Weights of that shape in the memory of `numbers`; tables that a conversion compares are the published ones."""
    if name.endswith("pos_enc.pe"):
        return position_table(shape[1], shape[2])[None]
    if name.endswith("spectrogram.window"):
        return torch.hann_window(shape[0])
    if name.endswith("relative_position_index"):
        return torch.from_numpy(window_places(math.isqrt(shape[0])))
    if name.endswith(("position_ids", "num_batches_tracked", "token_type_ids")):
        return torch.zeros(shape, dtype=torch.int64)
    if name == "betas":
        return torch.linspace(0.0015**0.5, 0.0195**0.5, shape[0]) ** 2
    return torch.frombuffer(numbers, dtype=torch.float32, count=math.prod(shape)).view(shape)


def kernels() -> dict[str, Tensor]:
    """AudioSep's Fourier transform."""
    from hubsep.conversion.audiosep import PUBLISHED_N_FFT, _kernels

    return {f"ss_model.{name}": kernel.float() for name, kernel in _kernels(PUBLISHED_N_FFT).items()}


def random_tensors(shared: Path, kind: str) -> dict[str, Tensor]:
    """All tensors of a source, by the authors' names."""
    block = torch.rand(BLOCK, generator=torch.Generator().manual_seed(0)) * 0.1
    shapes = SOURCES[kind].shapes(shared / GOLDEN)
    largest = max(map(math.prod, shapes.values()))
    numbers = memoryview(block.repeat(-(-largest // BLOCK)).numpy())  # type: ignore[arg-type]
    return {name: random_tensor(name, shape, numbers) for name, shape in shapes.items()}


def write_source(shared: str, kind: str, target: str) -> None:
    """Writes a source."""
    source, tensors = SOURCES[kind], random_tensors(Path(shared), kind)
    if source.system == "spleeter":
        write_bundle(tensors, Path(target))
    elif source.system == "audiosep":
        content: dict[str, Any] = {"state_dict": {**tensors, **kernels()}, "optimizer_states": optimised(tensors)}
        torch.save(content, target)
    else:
        torch.save({"state_dict": tensors} if source.system == "audioldm2" else tensors, target)


def optimised(tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
    """What Lightning keeps of the optimiser: two numbers for each weight of the separator."""
    weights = [tensor for name, tensor in tensors.items() if re.match(r"ss_model\.(?!.*istft|.*\.stft)", name)]
    return [{"state": {n: {kept: weight.clone() for kept in OPTIMISED_TWICE} for n, weight in enumerate(weights)}}]


def write_bundle(tensors: dict[str, Tensor], target: Path) -> None:
    """Writes TensorFlow's bundle in a `.tar.gz`."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
    from published_spleeter import DATA, bundle

    index, data = bundle(tensors)
    files = {"checkpoint": b'model_checkpoint_path: "model"\n', "model.index": index, DATA: data}
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


__all__ = ["SOURCES", "Source", "random_tensors", "write_source"]
