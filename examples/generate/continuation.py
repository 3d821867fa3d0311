# SPDX-License-Identifier: Apache-2.0
"""Lets a recording go on.

The recording stays as it is; what follows begins with its end, and GPT-2 goes on from the language of audio that
AudioMAE hears in it. On the command line: hubsep generate --continue street.wav --channel 1 -o continued.wav

    python examples/generate/continuation.py --recording examples/street.wav --seconds 3
"""

from __future__ import annotations

from collections.abc import Sequence

from common import first_channel, load, options, write


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "continued.wav", recording=True)
    parser.add_argument("--prompt", default="a dog barking in the rain", help="what is to be heard")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long it goes on")
    asked = parser.parse_args(arguments)
    pipe, call = load(asked)
    recording = first_channel(asked.recording)
    made = pipe.continue_audio(recording, asked.prompt, seconds=asked.seconds, **call)
    rows = {"given": recording, "continued": made.audios[0]}
    write(asked.output, made.audios[0], made.sampling_rate, rows)


if __name__ == "__main__":
    main()
