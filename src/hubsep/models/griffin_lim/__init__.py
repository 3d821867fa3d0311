# SPDX-License-Identifier: Apache-2.0
"""A vocoder without training: the waveform of a mel spectrogram by iteration."""
