# SPDX-License-Identifier: Apache-2.0
"""Makes a sound of any length and writes it while it is made.

Each window begins with the end of the one before; memory stays that of one window, and the first second is there long
before the last. On the command line: hubsep generate "rain" --seconds 30 -o long.wav

    python examples/generate/long_sound.py --prompt rain --seconds 30
"""

from __future__ import annotations

from collections.abc import Sequence

from common import load, options

from hubsep.audio import AudioWriter
from hubsep.plotting import plot_recordings


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "long.wav")
    parser.add_argument("--prompt", default="rain on a tin roof", help="what is to be heard")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long")
    asked = parser.parse_args(arguments)
    pipe, call = load(asked)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    samples = 0
    with AudioWriter(asked.output, pipe.sampling_rate, 1) as writer:  # the file is there when it is complete
        for block in pipe.stream(asked.prompt, seconds=asked.seconds, **call):
            writer.write(block.numpy()[None])
            samples += len(block)
            print(f"{samples / pipe.sampling_rate:.2f} s", flush=True)
    picture = plot_recordings({asked.prompt: asked.output}, asked.output.with_suffix(".png"))
    print(f"{asked.output}  {samples / pipe.sampling_rate:.2f} s\n{picture}")


if __name__ == "__main__":
    main()
