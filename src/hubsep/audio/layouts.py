# SPDX-License-Identifier: Apache-2.0
"""Which channel is which loudspeaker, and the order in which codecs and containers keep them.

Decisions: in memory the channels of a known layout come in one order, that of the bits of WAVE's channel mask, which
FLAC, FFmpeg and most programs share. Vorbis, Opus and ALAC have orders of their own, and Core Audio's tags (CAF, AIFF)
have dozens: their channels are brought into that order when they are read, and back when they are written. A layout
that nobody states is not guessed: channels stay as they come. Of one or two channels that are what everyone takes
them for, mono or left and right, nothing is noted unless the file itself does.

Bits and tags are those of Microsoft's WAVEFORMATEXTENSIBLE and Apple's CoreAudioBaseTypes; the orders of codecs are
those of the Vorbis I specification (4.3.9), RFC 7845 (5.1.1.2) and RFC 9639 (9.1.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import AudioError


SPEAKERS = (
    "FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC",
    "TBR",
)  # fmt: skip
MOST_BITS = 64
NAMED = {
    "mono": "FC", "stereo": "FL FR", "2.1": "FL FR LFE", "3.0": "FL FR FC", "3.0(back)": "FL FR BC",
    "3.1": "FL FR FC LFE", "quad": "FL FR BL BR", "quad(side)": "FL FR SL SR", "4.0": "FL FR FC BC",
    "5.0": "FL FR FC BL BR", "5.0(side)": "FL FR FC SL SR", "5.1": "FL FR FC LFE BL BR",
    "5.1(side)": "FL FR FC LFE SL SR", "6.0": "FL FR FC BC SL SR", "6.1": "FL FR FC LFE BC SL SR",
    "7.0": "FL FR FC BL BR SL SR", "7.1": "FL FR FC LFE BL BR SL SR", "7.1(wide)": "FL FR FC LFE BL BR FLC FRC",
}  # fmt: skip
FLAC = ("FC", "FL FR", "FL FR FC", "FL FR BL BR", "FL FR FC SL SR", "FL FR FC LFE SL SR", "FL FR FC LFE BC SL SR",
        "FL FR FC LFE BL BR SL SR")  # fmt: skip
VORBIS = ("FC", "FL FR", "FL FC FR", "FL FR BL BR", "FL FC FR BL BR", "FL FC FR BL BR LFE", "FL FC FR SL SR BC LFE",
          "FL FC FR SL SR BL BR LFE")  # fmt: skip
ALAC = ("FC", "FL FR", "FC FL FR", "FC FL FR BC", "FC FL FR BL BR", "FC FL FR BL BR LFE", "FC FL FR BL BR BC LFE",
        "FC FLC FRC FL FR BL BR LFE")  # fmt: skip
AMBISONIC_B = 107 << 16 | 4  # W, X, Y, Z, which WAVE files can say as well
AMBISONIC_SN3D = 190 << 16  # and the number of channels
BITMAP_TAG = 1 << 16  # "the mask says it"


@dataclass(frozen=True)
class Layout:
    """What the channels of a recording are.

    Args:
        mask: of loudspeakers, as in WAVE files; channels come in the order of its bits. 0 where they are none.
            Channels beyond its bits have no place.
        tag: of Core Audio, for what no mask can say, such as ambisonics; else 0.
    """

    mask: int = 0
    tag: int = 0

    @classmethod
    def named(cls, name: str) -> Layout:
        """The layout of a name such as "5.1", "quad", or "FL+FR+LFE".

        Raises:
            AudioError: if there is no such layout.
        """
        speakers = NAMED[name].split() if name in NAMED else name.split("+")
        if not set(speakers) <= set(SPEAKERS) or len(set(speakers)) < len(speakers):
            raise AudioError(
                f"there is no layout {name!r}; use {', '.join(NAMED)}, or loudspeakers such as FL+FR+LFE, of "
                f"{' '.join(SPEAKERS)}"
            )
        return cls(mask_of(speakers))

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names of the mask's loudspeakers, in the order of channels."""
        bits = [bit for bit in range(MOST_BITS) if self.mask >> bit & 1]
        return tuple(SPEAKERS[bit] if bit < len(SPEAKERS) else f"bit {bit}" for bit in bits)

    def __str__(self) -> str:
        """The name, as `named` takes it."""
        if self.tag:
            return "ambisonic" if self.tag >> 16 in (107, 190, 191) else f"Core Audio layout {self.tag:#x}"
        joined = " ".join(self.speakers)
        names = {speakers: name for name, speakers in NAMED.items()}
        return names.get(joined, joined.replace(" ", "+") or "unknown")

    def fits(self, channels: int) -> bool:
        """Whether it says of each of so many channels what it is."""
        return self.tag == 0 and self.mask.bit_count() == channels


def mask_of(speakers: Sequence[str]) -> int:
    """The mask with the bits of these."""
    return sum(1 << SPEAKERS.index(speaker) for speaker in speakers)


def ordered(speakers: Sequence[str]) -> tuple[Layout | None, tuple[int, ...] | None]:
    """Channels that a file keeps in this order.

    Returns:
        Their layout, None if a loudspeaker is not known or there twice; and where each channel of the layout's order
        is in the file, None where it is in its place.
    """
    if not speakers or not set(speakers) <= set(SPEAKERS) or len(set(speakers)) < len(speakers):
        return None, None
    order = tuple(sorted(range(len(speakers)), key=lambda at: SPEAKERS.index(speakers[at])))
    return Layout(mask_of(speakers)), (None if order == tuple(range(len(order))) else order)


def codec_speakers(subtype: str | None, channels: int) -> tuple[str, ...]:
    """What a codec with a fixed order of channels takes so many for; nothing of others."""
    table = {"VORBIS": VORBIS, "OPUS": VORBIS, "FLAC": FLAC, "ALAC": ALAC}.get((subtype or "").partition("_")[0], ())
    return tuple(table[channels - 1].split()) if 1 <= channels <= len(table) else ()


def codec_order(subtype: str, channels: int, layout: Layout | None) -> tuple[int, ...] | None:
    """Which channel a codec wants at each place, None where they come as they are.

    Args:
        subtype: the codec.
        channels: of the recording.
        layout: of the recording, None or without places where it is not known: then the codec's own is assumed.

    Raises:
        AudioError: if the codec takes so many channels for others than they are.
    """
    wanted = codec_speakers(subtype, channels)
    if not wanted:
        return None
    places = sorted(wanted, key=SPEAKERS.index)
    if channels > 2 and layout is not None and layout.fits(channels) and _plain(layout.speakers) != _plain(places):
        if subtype not in ("VORBIS", "OPUS"):
            return None  # the container says which they are
        raise AudioError(
            f"{subtype.capitalize()} takes {channels} channels for {'+'.join(places)}, and these are {layout} "
            f"({'+'.join(layout.speakers)}); write wav or flac, which can say so"
        )
    order = tuple(places.index(speaker) for speaker in wanted)
    return None if order == tuple(range(channels)) else order


def _plain(speakers: Sequence[str]) -> list[str]:
    """Loudspeakers with those at the side as those at the back, where there is one pair: 5.1 is either."""
    if {"SL", "SR", "BL", "BR"} <= set(speakers) or "BC" in speakers:
        return list(speakers)
    return [{"SL": "BL", "SR": "BR"}.get(speaker, speaker) for speaker in speakers]


__all__ = [
    "AMBISONIC_B",
    "AMBISONIC_SN3D",
    "BITMAP_TAG",
    "SPEAKERS",
    "Layout",
    "codec_order",
    "codec_speakers",
    "mask_of",
    "ordered",
]
