# SPDX-License-Identifier: Apache-2.0
"""Peak memory and time of separating a long song into files, against a short one: Spleeter at the published size.

Every figure is from a process of its own, with random weights; memory includes PyTorch and the weights.

    python benchmarks/music_memory.py --minutes 1 60 --stems 4 --threads 2
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf


RATE = 44_100
STEMS = {
    2: ["vocals", "accompaniment"],
    4: ["vocals", "drums", "bass", "other"],
    5: ["vocals", "piano", "drums", "bass", "other"],
}


def write_song(path: Path, minutes: float) -> None:
    """Noise that swells and fades, in stereo and 16 bits, written block by block."""
    generator = np.random.default_rng(0)
    block = generator.standard_normal((10 * RATE, 2)) * np.hanning(10 * RATE)[:, None] * 0.2
    with sf.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        for _ in range(round(minutes * 6)):
            file.write(block)


def measure(minutes: float, stems: int, wiener: bool, threads: int) -> dict[str, float]:
    """Separates one song in this process."""
    import torch

    from hubsep import SpleeterConfig, SpleeterForAudioSeparation
    from hubsep.pipelines import AudioSeparationPipeline

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = SpleeterForAudioSeparation(SpleeterConfig(stems=STEMS[stems], wiener_filter=wiener)).eval()
    separate = AudioSeparationPipeline(model=model, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder) / "song.wav"
        write_song(song, minutes)
        start = time.perf_counter()
        separate.separate_file(song, Path(folder) / "out", subtype="PCM_16", clip="clamp")
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024}


def main() -> None:
    """Prints a table, or one line of JSON in a process that measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--stems", type=int, choices=sorted(STEMS), default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["masks", "wiener"], help="measure this in the process itself")
    asked = parser.parse_args()
    if asked.only is not None:
        print(json.dumps(measure(asked.minutes[0], asked.stems, asked.only == "wiener", asked.threads)))
        return
    print(f"Spleeter, {asked.stems} stems, float32, {asked.threads} threads")
    for kind in ("masks", "wiener"):
        for minutes in asked.minutes:
            options = ["--stems", str(asked.stems), "--threads", str(asked.threads), "--only", kind]
            command = [sys.executable, __file__, "--minutes", str(minutes), *options]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{kind:>7} {minutes:6g} min {found['seconds']:9.1f} s {found['megabytes']:8.0f} MB peak", flush=True
            )


if __name__ == "__main__":
    main()
