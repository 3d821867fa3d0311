# SPDX-License-Identifier: Apache-2.0
"""The process that decodes what strangers upload: `python -m hubsep.demo.decoder FILE OUTPUT LIMITS`.

Decisions: decoders written in C have memory errors every year, so they run where a crash, a loop or a bomb costs one
upload. The process takes its limits before it imports a decoder, knows no token and no other file, and answers with
bare float32 samples in time order and one line of JSON, which need no decoder to read. It never fetches anything.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from ..errors import AudioError
from ..hub import processes


def main(arguments: list[str]) -> int:
    """Decodes one file into another and prints what it is, or what is wrong with it, as JSON."""
    source, output, text = arguments
    limits = json.loads(text)
    confine(limits)

    try:
        answer = decode(Path(source), Path(output), limits)
    except AudioError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": "decoding it takes more memory than this demo has for a recording"}
    print(json.dumps(answer))
    return 0


def confine(limits: dict[str, Any]) -> None:
    """Bounds this process as the limits of a demo say; on Windows the parent's clock is the only bound."""
    processes.confine(
        memory_bytes=limits["decode_memory_mb"] * 2**20,
        cpu_seconds=limits["decode_cpu_seconds"],
        file_bytes=limits["max_values"] * 4 + 2**20,
    )


def decode(source: Path, output: Path, limits: dict[str, Any]) -> dict[str, Any]:
    """Writes the samples of a recording, (samples, channels) float32.

    Returns:
        `sampling_rate`, `channels`, `samples` and `notes`, a list of what a listener should know.

    Raises:
        AudioError: if it is no recording, or more than the limits allow.
    """
    from ..audio.reader import AudioLimits, open_audio

    longest = f"it is longer than {_duration(limits['max_seconds'])}, the limit of this demo; upload a part of it"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        bounds = AudioLimits(max_channels=limits["max_channels"])
        with open_audio(source, on_short="warn", limits=bounds) as reader, output.open("wb") as file:
            most = min(limits["max_seconds"] * reader.sampling_rate, limits["max_values"] // reader.channels)
            if reader.claimed_samples is not None and reader.claimed_samples > limits["max_seconds"] * (
                reader.sampling_rate
            ):
                raise AudioError(longest)
            samples = 0
            for block in reader.blocks():
                samples += block.shape[1]
                if samples > most:
                    raise AudioError(longest)
                file.write(block.T.tobytes())
            facts = {"sampling_rate": reader.sampling_rate, "channels": reader.channels, "samples": samples}
    notes = [str(warning.message) for warning in heard if issubclass(warning.category, UserWarning)]
    return {**facts, "notes": notes}


def _duration(seconds: int) -> str:
    minutes = seconds / 60
    return f"{minutes:g} minute{'s' * (minutes != 1)}" if seconds >= 60 else f"{seconds} seconds"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

__all__ = ["confine", "decode", "main"]
