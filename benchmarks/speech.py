# SPDX-License-Identifier: Apache-2.0
"""Speed, memory and output of the speech separators against the packages that published them.

`python benchmarks/speech.py [SYSTEM ...] [--seconds S] [--threads N] [--repeats N] [--peers FOLDER] [--pipeline]`

SYSTEM is sepformer (SpeechBrain), conv_tasnet (torchaudio) or conv_tasnet_16k (asteroid). The peers are no
dependencies of hubsep; without one, ours is measured alone, from the same kind of random weights. To have them:

    python -m pip install --no-deps --target FOLDER speechbrain==1.1.2 hyperpyyaml ruamel.yaml sentencepiece joblib \\
        asteroid==0.7.0 asteroid-filterbanks==0.4.0

Each variant is a process of its own that has loaded the same random weights: the peer's, written as it publishes
them and converted for ours in float32 and in bfloat16; `turns` says how they are measured. With `--pipeline`, ours
works through the recording in segments, for long ones; `--variants float32 bfloat16` leaves the peer out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import Variant, compare, say, serve


VARIANTS = ("theirs", "float32", "bfloat16")
Run = Callable[[Tensor], Tensor]

SEPFORMER = {
    "published": {"channels": 256, "layers": 8, "blocks": 2, "heads": 8, "inner": 1_024, "chunk": 250},
    "tiny": {"channels": 32, "layers": 1, "blocks": 1, "heads": 4, "inner": 48, "chunk": 50},
}
CONV_TASNET = {
    "published": {"filters": 512, "bottleneck": 128, "hidden": 512, "blocks": 8, "repeats": 3},
    "tiny": {"filters": 32, "bottleneck": 16, "hidden": 32, "blocks": 2, "repeats": 1},
}


def speechbrain_sepformer(size: str, folder: Path) -> Run:
    from speechbrain.lobes.models.dual_path import Decoder, Dual_Path_Model, Encoder, SBTransformerBlock

    s = SEPFORMER[size]
    intra, inter = (
        SBTransformerBlock(
            num_layers=s["layers"], d_model=s["channels"], nhead=s["heads"], d_ffn=s["inner"], dropout=0,
            use_positional_encoding=True, norm_before=True,
        )
        for _ in range(2)
    )  # fmt: skip
    encoder = Encoder(kernel_size=16, out_channels=s["channels"]).eval()
    masknet = Dual_Path_Model(
        s["channels"], s["channels"], intra, inter, num_layers=s["blocks"], norm="ln", K=s["chunk"], num_spks=2,
        skip_around_intra=True, linear_layer_after_inter_intra=False,
    ).eval()  # fmt: skip
    decoder = Decoder(in_channels=s["channels"], out_channels=1, kernel_size=16, stride=8, bias=False).eval()
    for name, part in (("encoder", encoder), ("masknet", masknet), ("decoder", decoder)):
        torch.save(part.state_dict(), folder / f"{name}.ckpt")
    stacks = {f"{path}_model": {"nhead": s["heads"]} for path in ("intra", "inter")}
    numbers = {"sample_rate": 8_000, "num_spks": 2, "kernel_stride": 8, "MaskNet": {"K": s["chunk"], **stacks}}
    (folder / "hyperparams.yaml").write_text(json.dumps(numbers))

    def run(mixture: Tensor) -> Tensor:
        features = encoder(mixture[:, 0])
        masked = torch.stack([features] * 2) * masknet(features)
        return torch.stack([decoder(source) for source in masked], dim=1)

    return run


def torchaudio_conv_tasnet(size: str, folder: Path) -> Run:
    from torchaudio.models import ConvTasNet

    s = CONV_TASNET[size]
    model = ConvTasNet(
        num_sources=2, enc_kernel_size=16, enc_num_feats=s["filters"], msk_kernel_size=3, msk_activate="relu",
        msk_num_feats=s["bottleneck"], msk_num_hidden_feats=s["hidden"], msk_num_layers=s["blocks"],
        msk_num_stacks=s["repeats"],
    ).eval()  # fmt: skip
    torch.save(model.state_dict(), folder / "model.pt")
    return model


def asteroid_conv_tasnet(size: str, folder: Path) -> Run:
    from asteroid.models import ConvTasNet

    s = CONV_TASNET[size]
    model = ConvTasNet(
        n_src=2, kernel_size=32, stride=16, n_filters=s["filters"], bn_chan=s["bottleneck"], hid_chan=s["hidden"],
        skip_chan=s["bottleneck"], n_blocks=s["blocks"], n_repeats=s["repeats"], mask_act="relu", sample_rate=16_000,
    ).eval()  # fmt: skip
    arguments = model.get_model_args()
    torch.save(
        {"model_name": "ConvTasNet", "state_dict": model.get_state_dict(), "model_args": arguments},
        folder / "pytorch_model.bin",
    )
    return model


# peer, how it is made, our model_type, sampling rate, seconds of audio, what a folder of it is converted from
SYSTEMS: dict[str, tuple[str, Callable[[str, Path], Run], str, int, float, str]] = {
    "sepformer": ("SpeechBrain", speechbrain_sepformer, "sepformer", 8_000, 16.0, ""),
    "conv_tasnet": ("torchaudio", torchaudio_conv_tasnet, "conv_tasnet", 8_000, 10.0, "model.pt"),
    "conv_tasnet_16k": ("asteroid", asteroid_conv_tasnet, "conv_tasnet", 16_000, 10.0, "pytorch_model.bin"),
}


def our_model(system: str, variant: str, size: str, folder: Path) -> Any:
    """The peer's weights converted if it has left some, else random ones."""
    from hubsep.auto import AutoModelForAudioSeparation
    from hubsep.conversion import convert
    from hubsep.registry import SYSTEMS as ROWS
    from hubsep.registry import locate

    _, _, model_type, rate, _, file = SYSTEMS[system]
    if any(folder.iterdir()):
        overrides = {"sampling_rate": rate, "num_blocks": CONV_TASNET[size]["blocks"]} if file == "model.pt" else {}
        model = convert(model_type, folder / file, **overrides)
    elif size != "published":
        raise SystemExit(f"--size {size} needs {SYSTEMS[system][0]}; see --help")
    else:
        model = AutoModelForAudioSeparation.from_config(locate(ROWS[model_type].config)(sampling_rate=rate)).eval()
    return model.to(getattr(torch, variant))


def ours(system: str, variant: str, size: str, folder: Path, pipeline: bool) -> Run:
    model = our_model(system, variant, size, folder)
    if not pipeline:
        return lambda mixture: model(mixture).sources[:, :, 0]
    from hubsep.pipelines import AudioSeparationPipeline

    pipe = AudioSeparationPipeline(model=model)

    def run(mixture: Tensor) -> Tensor:
        outputs = pipe({"array": mixture[0].numpy(), "sampling_rate": model.config.sampling_rate})
        return torch.stack([torch.from_numpy(output["audio"][0]) for output in outputs])[None]

    return run


@torch.inference_mode()
def child(options: argparse.Namespace) -> None:
    """Builds one variant and serves it."""
    folder, system, variant = Path(options.folder), options.systems[0], options.variants[0]
    torch.manual_seed(0)
    try:
        if variant == "theirs":
            run = SYSTEMS[system][1](options.size, folder)
        else:
            run = ours(system, variant, options.size, folder, options.pipeline)
    except ImportError as error:
        say(error=f"{SYSTEMS[system][0]} is not there ({error})")
        return
    samples = round(options.seconds * SYSTEMS[system][3])
    mixture = 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(1))
    serve(lambda: run(mixture))


def command(system: str, name: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """What starts the process of a variant."""
    words = [sys.executable, __file__, system, "--child", "--variants", name, "--folder", str(folder)]
    for option in ("seconds", "threads", "size"):
        words += [f"--{option}", str(getattr(options, option))]
    words += ["--peers", options.peers] if options.peers else []
    return words + (["--pipeline"] if options.pipeline and name != "theirs" else [])


def measure(system: str, options: argparse.Namespace) -> None:
    peer, _, _, rate, _, _ = SYSTEMS[system]
    way = "in segments" if options.pipeline else "whole"
    print(f"{system}, {options.size} size, {options.seconds:g} s at {rate} Hz ({way}), {options.threads} threads")
    with tempfile.TemporaryDirectory() as place:
        weights = Path(place) / "weights"
        weights.mkdir()
        labels = {"theirs": peer}
        names = [name for name in VARIANTS if name in options.variants]
        variants = [Variant(labels.get(name, name), command(system, name, weights, options)) for name in names]
        compare(variants, options.repeats, Path(place))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=", ".join(SYSTEMS))
    parser.add_argument("--seconds", type=float, help="of audio a call; 16 for SepFormer, 10 for Conv-TasNet")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5, help="runs of each variant after the warm-up")
    parser.add_argument("--size", choices=("published", "tiny"), default="published")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--peers", help="folder the other packages were installed to")
    parser.add_argument("--pipeline", action="store_true", help="ours in segments, as for long recordings")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.systems) - SYSTEMS.keys()
    if unknown:
        parser.error(f"no system {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    if options.peers:
        sys.path.append(options.peers)
    torch.set_num_threads(options.threads)
    if options.child:
        child(options)
        return
    seconds = options.seconds
    for system in options.systems or SYSTEMS:
        options.seconds = seconds or SYSTEMS[system][4]
        measure(system, options)


if __name__ == "__main__":
    main()
