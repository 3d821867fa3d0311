# SPDX-License-Identifier: Apache-2.0
"""The processes of Spleeter and norbert, started by `music.py` with the Python they were installed for.

Needs numpy and one of the two, nothing of hubsep. `music_peers.py spleeter|norbert FOLDER`, where FOLDER holds the
inputs and settings; Spleeter writes random weights there first, as TensorFlow writes checkpoints. Its graph is built
once and kept, which is faster than what its own `separate` does, to build it on every call.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from turns import say, serve


def random_weights(settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Variables of all stems by name: uniform kernels as wide as He's, norms that do something."""
    rows = np.random.default_rng(0)
    channels = [2, *settings["conv_channels"]]
    made = [*channels[5:0:-1], 1]
    read = [channels[6], *(2 * number for number in made[:-1])]
    shapes: list[tuple[str, int, tuple[int, ...], int]] = []  # kind, outputs, kernel, inputs of an output
    for _ in settings["stems"]:
        for inputs, outputs in pairwise(channels):
            shapes += [
                ("conv2d", outputs, (5, 5, inputs, outputs), 25 * inputs),
                ("batch_normalization", outputs, (), 0),
            ]
        for inputs, outputs in zip(read, made, strict=True):
            shapes += [("conv2d_transpose", outputs, (5, 5, outputs, inputs), 25 * inputs // 4)]
            shapes += [("batch_normalization", outputs, (), 0)]
        shapes.append(("conv2d", 2, (4, 4, 1, 2), 16))
    counts: dict[str, int] = {}
    variables: dict[str, np.ndarray] = {}
    for kind, outputs, kernel, inputs in shapes:
        number = counts[kind] = counts.get(kind, -1) + 1
        name = f"{kind}_{number}" if number else kind
        if kernel:
            variables[f"{name}/kernel"] = rows.uniform(-1, 1, kernel) * (6 / inputs) ** 0.5
            variables[f"{name}/bias"] = rows.uniform(-0.1, 0.1, outputs)
        else:
            for leaf, low, high in (("gamma", 0.8, 1.2), ("beta", -0.1, 0.1), ("moving_mean", -0.1, 0.1),
                                    ("moving_variance", 0.8, 1.2)):  # fmt: skip
                variables[f"{name}/{leaf}"] = rows.uniform(low, high, outputs)
    return {name: value.astype(np.float32) for name, value in variables.items()}


def write_checkpoint(folder: Path, settings: dict[str, Any]) -> None:
    import tensorflow as tf

    values: dict[str, Any] = {**random_weights(settings), "global_step": np.int64(0)}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=value) for name, value in values.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, str(folder / "model"), write_meta_graph=False)
    (folder / ".probe").write_text("OK")  # without it, Spleeter would download the published weights


def spleeter(place: Path, settings: dict[str, Any]) -> Callable[[], Any]:
    import tensorflow as tf
    from spleeter.separator import create_estimator

    folder = place / "weights"
    # by a process of its own, whose memory is not what Spleeter needs
    subprocess.run([sys.executable, __file__, "weights", str(place)], check=True)
    parameters: dict[str, Any] = {"conv_n_filters": settings["conv_channels"]}
    if settings.get("encoder_activation") == "elu":
        parameters.update(conv_activation="ELU", deconv_activation="ELU")
    described = {
        "model_dir": str(folder), "mix_name": "mix", "instrument_list": settings["stems"], "n_channels": 2,
        "sample_rate": 44_100, "frame_length": settings["n_fft"], "frame_step": settings["n_fft"] // 4,
        "T": settings["segment_frames"], "F": settings["num_bins"], "separation_exponent": 2,
        "mask_extension": "zeros", "model": {"type": "unet.unet", "params": parameters},
    }  # fmt: skip
    estimator = create_estimator(described, settings.get("wiener_filter", False))
    waveform = np.ascontiguousarray(np.load(place / "inputs.npz")["mixture"].T)

    def inputs() -> Any:
        return tf.data.Dataset.from_tensors({"waveform": waveform, "audio_id": np.array("")}).repeat()

    predictions = estimator.predict(inputs, yield_single_examples=False)

    def run() -> np.ndarray:
        separated = next(predictions)
        return np.stack([separated[stem].T for stem in settings["stems"]])

    return run


def norbert(place: Path, settings: dict[str, Any]) -> Callable[[], Any]:
    from norbert import wiener

    inputs = np.load(place / "inputs.npz")
    mixture = np.ascontiguousarray(inputs["mixture"].transpose(1, 2, 0))
    bins = inputs["estimates"].shape[-1]
    estimates = np.zeros((*mixture.shape, len(settings["stems"])), np.float32)
    estimates[:, :bins] = inputs["estimates"].transpose(2, 3, 1, 0)

    def run() -> np.ndarray:  # the mixture is scaled in place
        separated = wiener(estimates, mixture.copy(), 1).astype(np.complex64)
        whole = np.ascontiguousarray(separated[:, :bins].transpose(3, 2, 0, 1))
        return whole.view(np.float32).reshape(len(settings["stems"]), -1)

    return run


def weights(place: Path, settings: dict[str, Any]) -> Callable[[], Any]:
    write_checkpoint(place / "weights", settings)
    sys.exit()


def main() -> None:
    peer, place = sys.argv[1], Path(sys.argv[2])
    settings = json.loads((place / "settings.json").read_text())
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(settings["threads"])
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
    logging.getLogger("tensorflow").setLevel("ERROR")
    try:
        run = {"spleeter": spleeter, "norbert": norbert, "weights": weights}[peer](place, settings)
    except ImportError as error:
        say(error=f"{peer} is not there ({error})")
        return
    serve(run)


if __name__ == "__main__":
    main()
