# SPDX-License-Identifier: Apache-2.0
"""Speed, memory and output of the music separators against what published them.

`python benchmarks/music.py [SYSTEM ...] [--seconds S] [--threads N] [--repeats N] [--peer-python PYTHON]`
`python benchmarks/music.py [SYSTEM ...] --minutes 1 60`

SYSTEM is spleeter_2stems, spleeter_4stems, spleeter_wiener (two stems through the multichannel Wiener filter), wiener
(that filter alone, beside norbert) or meta_tasnet. Spleeter runs on a TensorFlow of its own time, so it is run by
another Python, 3.11, which `--peer-python` names; without, ours is measured alone, from random weights:

    python3.11 -m venv PEER
    PEER/bin/pip install "tensorflow-cpu==2.12.*" "numpy<2" norbert==0.2.1 ffmpeg-python httpx typer pandas
    PEER/bin/pip install --no-deps spleeter==2.4.2

With it, random weights are written by TensorFlow and converted for ours, in float32 and in bfloat16. Meta-TasNet has
no package: beside ours is `meta_tasnet_reference`, the network as it was published in plain torch, weights generated
on every call; ours has them written out once. `turns` says how all are measured. With `--minutes`, recordings of these
lengths are separated into files, all stems, by a process each, which shows whether memory grows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from turns import Variant, compare, memory, say, serve


VARIANTS = ("theirs", "float32", "bfloat16")
WEIGHTS, INPUTS, PEER_SETTINGS = "weights", "inputs.npz", "settings.json"
TWO, FOUR = ("vocals", "accompaniment"), ("vocals", "drums", "bass", "other")
WIENER_FRAMES, WIENER_BINS, BINS = 1_296, 1_024, 2_049  # 30 s of Spleeter

RECTIFIED = {"mask_activation": "sigmoid", "encoder_activation": "leaky_relu", "decoder_activation": "relu"}
EXPONENTIAL = {"mask_activation": "sigmoid", "encoder_activation": "elu", "decoder_activation": "elu"}

# what it is measured beside, our model_type, seconds of audio a call, channels, sampling rate, fields of our config
SYSTEMS: dict[str, tuple[str, str, float, int, int, dict[str, Any]]] = {
    "spleeter_2stems": ("Spleeter", "spleeter", 30.0, 2, 44_100, {"stems": TWO, **RECTIFIED}),
    "spleeter_4stems": ("Spleeter", "spleeter", 30.0, 2, 44_100, {"stems": FOUR, **EXPONENTIAL}),
    "spleeter_wiener": ("Spleeter", "spleeter", 30.0, 2, 44_100, {"stems": TWO, **RECTIFIED, "wiener_filter": True}),
    "wiener": ("norbert", "", 30.0, 2, 44_100, {"stems": FOUR}),
    "meta_tasnet": ("the reference", "meta_tasnet", 10.0, 1, 32_000, {}),
}
SPLEETER_SIZES: dict[str, dict[str, Any]] = {
    "published": {
        "n_fft": 4_096,
        "segment_frames": 512,
        "num_bins": 1_024,
        "conv_channels": [16, 32, 64, 128, 256, 512],
    },
    "tiny": {"n_fft": 512, "segment_frames": 64, "num_bins": 128, "conv_channels": [4, 6, 8, 10, 12, 14]},
}


def noise(system: str, seconds: float) -> Tensor:
    """A mixture, (1, channels, samples): noise whose level comes and goes, so that frames differ."""
    _, _, _, channels, rate, _ = SYSTEMS[system]
    samples = round(seconds * rate)
    level = 0.05 + 0.05 * torch.sin(torch.arange(samples) * (6.0 / rate)).square()
    return level * torch.randn(1, channels, samples, generator=torch.Generator().manual_seed(1))


def write_inputs(system: str, options: argparse.Namespace, place: Path) -> None:
    """What the process of a peer reads: the mixture, or estimates and mixture of the filter, and its settings."""
    fields = SYSTEMS[system][5]
    if system == "wiener":
        rows = torch.Generator().manual_seed(1)
        frames = max(round(WIENER_FRAMES * options.seconds / 30), 1)
        estimates = 10 * torch.rand(len(fields["stems"]), 2, frames, WIENER_BINS, generator=rows)
        mixture = torch.randn(2, frames, BINS, dtype=torch.complex64, generator=rows) * 10
        np.savez(place / INPUTS, estimates=estimates.numpy(), mixture=mixture.numpy())
    else:
        np.savez(place / INPUTS, mixture=noise(system, options.seconds)[0].numpy())
    settings = {**SPLEETER_SIZES[options.size], **fields, "threads": options.threads}
    (place / PEER_SETTINGS).write_text(json.dumps(settings))


def our_model(system: str, options: argparse.Namespace, place: Path) -> Any:
    """The peer's weights converted if it has left some, else random ones."""
    from hubsep.auto import AutoModelForAudioSeparation
    from hubsep.conversion import convert
    from hubsep.registry import SYSTEMS as ROWS
    from hubsep.registry import locate

    torch.manual_seed(0)
    _, model_type, _, _, _, fields = SYSTEMS[system]
    weights = place / WEIGHTS
    if model_type == "meta_tasnet":
        model = convert(model_type, weights / "best_model.pt", normalise=True).materialised()
    elif any(weights.iterdir()):
        sizes = {name: value for name, value in SPLEETER_SIZES[options.size].items() if name != "conv_channels"}
        model = convert(model_type, weights, **sizes, **fields)
    else:
        config = locate(ROWS[model_type].config)(**SPLEETER_SIZES[options.size], **fields)
        model = AutoModelForAudioSeparation.from_config(config).eval()
    return model.to(getattr(torch, options.variants[0]))


def our_filter(place: Path) -> Callable[[], Any]:
    from hubsep.models.spleeter.wiener_spleeter import WienerFilter

    inputs = np.load(place / INPUTS)
    estimates, whole = (torch.from_numpy(inputs[name])[None] for name in ("estimates", "mixture"))

    def run() -> Tensor:
        mixture, wiener = whole[..., :WIENER_BINS], WienerFilter()
        wiener.add(estimates, mixture, whole.abs().amax(dim=(1, 2, 3)))
        return torch.view_as_real(wiener.filter(estimates, mixture)[0]).flatten(1)

    return run


def ours(system: str, options: argparse.Namespace, place: Path) -> Callable[[], Any]:
    if system == "wiener":
        return our_filter(place)
    model, mixture = our_model(system, options, place), torch.from_numpy(np.load(place / INPUTS)["mixture"])[None]
    return lambda: model(mixture).sources[0]


def reference(options: argparse.Namespace, place: Path) -> Callable[[], Any]:
    """The plain Meta-TasNet; what it reads is resampled and brought to unit level beforehand."""
    from meta_tasnet_reference import SIZES, MetaTasNet, save

    from hubsep.models.meta_tasnet.layers_meta_tasnet import decimate

    torch.manual_seed(0)
    network = MetaTasNet(**SIZES[options.size]).eval()
    save(network, place / WEIGHTS / "best_model.pt")
    mixture = torch.from_numpy(np.load(place / INPUTS)["mixture"])[None]
    rates = [decimate(mixture, factor) for factor in (4, 2, 1)]
    levels = [rate.std(dim=-1, keepdim=True) for rate in rates]
    mixtures = [rate / level for rate, level in zip(rates, levels, strict=True)]
    return lambda: network(mixtures)[-1][0] * levels[-1]


@torch.inference_mode()
def child(options: argparse.Namespace) -> None:
    """Builds one variant and serves it."""
    place, system, variant = Path(options.place), options.systems[0], options.variants[0]
    if options.file:
        one_file(system, options, place)
    else:
        serve(reference(options, place) if variant == "theirs" else ours(system, options, place))


def one_file(system: str, options: argparse.Namespace, place: Path) -> None:
    """Separates a file into all its stems and says how long that took and what it needed."""
    from hubsep.pipelines import AudioSeparationPipeline

    pipe = AudioSeparationPipeline(model=our_model(system, options, place))
    loaded, start = memory("VmRSS"), time.perf_counter()
    written = pipe.separate_file(options.file, place / "stems", subtype="PCM_16", clip="clamp")
    say(seconds=time.perf_counter() - start, loaded=loaded, peak=memory("VmHWM"), stems=len(written))


def command(system: str, name: str, options: argparse.Namespace, place: Path) -> list[str]:
    """What starts the process of a variant."""
    if name == "theirs" and system != "meta_tasnet":
        script = Path(__file__).with_name("music_peers.py")
        return [options.peer_python, str(script), SYSTEMS[system][0].lower(), str(place)]
    words = [sys.executable, __file__, system, "--child", "--variants", name, "--place", str(place)]
    return [*words, "--size", options.size, "--threads", str(options.threads)]


def measure(system: str, options: argparse.Namespace) -> None:
    peer, _, _, channels, rate, _ = SYSTEMS[system]
    kind = f"{options.seconds:g} s, {'stereo' if channels == 2 else 'mono'}, {rate} Hz"
    print(f"{system}, {options.size} size, {kind}, {options.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / WEIGHTS).mkdir()
        write_inputs(system, options, place)
        names = [name for name in options.variants if system != "wiener" or name != "bfloat16"]
        if "theirs" in names and system != "meta_tasnet" and not options.peer_python:
            print(f"  {peer} is not installed (--peer-python); ours is measured alone")
            names.remove("theirs")
        if system == "meta_tasnet" and "theirs" not in names:
            reference(options, place)  # for its weights
        labels = {"theirs": peer}
        variants = [Variant(labels.get(name, name), command(system, name, options, place)) for name in names]
        compare(variants, options.repeats, place)


def write_noise(path: Path, system: str, minutes: float) -> None:
    import soundfile

    _, _, _, channels, rate, _ = SYSTEMS[system]
    second = noise(system, 1.0)[0].T.numpy()
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16") as file:
        for _ in range(round(60 * minutes)):
            file.write(second)


def growth(system: str, options: argparse.Namespace) -> None:
    """Memory of separating files of several lengths, a fresh process each."""
    print(f"{system}, {options.size} size, files into files, {options.threads} threads")
    for minutes in options.minutes:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / WEIGHTS).mkdir()
            if system == "meta_tasnet":
                write_inputs(system, options, place)
                reference(options, place)
            write_noise(place / "noise.wav", system, minutes)
            words = [*command(system, "float32", options, place), "--file", str(place / "noise.wav")]
            lines = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
            said = json.loads(lines[-1])
            text = f"  {minutes:6g} minutes, {said['stems']} stems: {said['seconds']:8.1f} s"
            print(f"{text}, loaded {said['loaded']:6.0f} MB, peak {said['peak']:6.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=", ".join(SYSTEMS))
    parser.add_argument("--seconds", type=float, help="of audio a call; 30 for Spleeter, 10 for Meta-TasNet")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5, help="runs of each variant after the warm-up")
    parser.add_argument("--size", choices=tuple(SPLEETER_SIZES), default="published")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--peer-python", help="the Python that Spleeter and norbert were installed for")
    parser.add_argument("--minutes", nargs="+", type=float, help="memory for recordings of these lengths")
    for option in ("--child", "--place", "--file"):
        parser.add_argument(option, action="store_true" if option == "--child" else "store", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.systems) - SYSTEMS.keys()
    if unknown:
        parser.error(f"no system {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    torch.set_num_threads(options.threads)
    if options.child:
        child(options)
        return
    seconds = options.seconds
    for system in options.systems or SYSTEMS:
        options.seconds = seconds or SYSTEMS[system][2]
        if not options.minutes:
            measure(system, options)
        elif system != "wiener":
            growth(system, options)


if __name__ == "__main__":
    main()
