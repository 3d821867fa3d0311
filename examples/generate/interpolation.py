# SPDX-License-Identifier: Apache-2.0
"""Makes the sounds between two prompts, all from the same noise.

The language of audio goes from one prompt's to the other's along a circle. On the command line:
hubsep generate "rain" --interpolate "a dog barking" --mix 0.5 -o between.wav

    python examples/generate/interpolation.py --first rain --second "a dog barking" --weights 0 0.5 1
"""

from __future__ import annotations

from collections.abc import Sequence

from common import load, options, write


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "between.wav")
    parser.add_argument("--first", default="rain", help="the prompt at weight 0")
    parser.add_argument("--second", default="a dog barking", help="the prompt at weight 1")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0], help="from 0 to 1")
    parser.add_argument("--seconds", type=float, help="of each sound; by default what the model was trained on")
    asked = parser.parse_args(arguments)
    pipe, call = load(asked)
    made = pipe.interpolate(asked.first, asked.second, asked.weights, seconds=asked.seconds, **call)
    rows = {f"{weight:g} of the way": sound for weight, sound in zip(asked.weights, made.audios, strict=True)}
    # one after the other
    write(asked.output, made.audios.reshape(-1), made.sampling_rate, rows)


if __name__ == "__main__":
    main()
