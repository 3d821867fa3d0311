# SPDX-License-Identifier: Apache-2.0
"""Makes a part of a recording anew, and leaves the rest as it is, sample by sample.

On the command line:
hubsep generate "a dog barking" --inpaint street.wav --channel 1 --from 1.5 --to 2.5 -o inpainted.wav

    python examples/generate/inpainting.py --start 1.5 --stop 2.5
"""

from __future__ import annotations

from collections.abc import Sequence

from common import first_channel, load, options, write


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "inpainted.wav", recording=True)
    parser.add_argument("--prompt", default="a dog barking in the rain", help="what is to be heard there")
    parser.add_argument("--start", type=float, default=1.5, help="where the part begins, in seconds")
    parser.add_argument("--stop", type=float, default=2.5, help="where it ends")
    asked = parser.parse_args(arguments)
    pipe, call = load(asked)
    recording = first_channel(asked.recording)
    made = pipe.inpaint(recording, asked.start, asked.stop, asked.prompt, **call)
    rows = {"given": recording, f"{asked.start:g} to {asked.stop:g} s made anew": made.audios[0]}
    write(asked.output, made.audios[0], made.sampling_rate, rows)


if __name__ == "__main__":
    main()
