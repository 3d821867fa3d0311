# SPDX-License-Identifier: Apache-2.0
"""Makes sounds like a recording, from nearly the same to only of the same kind.

Of the recording's latents, `--strengths` says how much is made anew; its language of audio stays. On the command line:
hubsep generate --variation street.wav --channel 1 --strength 0.6 -o varied.wav

    python examples/generate/variation.py --strengths 0.3 0.6 0.9
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from common import first_channel, load, options, write


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "varied.wav", recording=True)
    parser.add_argument("--prompt", default="a dog barking", help="what is to be heard besides")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.3, 0.6, 0.9], help="0 to 1: how much is new")
    asked = parser.parse_args(arguments)
    pipe, call = load(asked)
    recording = first_channel(asked.recording, pipe.native_seconds)
    rows, made = {"given": recording}, []
    for strength in asked.strengths:
        result = pipe.vary(recording, asked.prompt, strength=strength, **call)
        made.append(result.audios[0])
        rows[f"strength {strength:g}"] = result.audios[0]
    # one after the other
    write(asked.output, np.concatenate(made), pipe.sampling_rate, rows)


if __name__ == "__main__":
    main()
