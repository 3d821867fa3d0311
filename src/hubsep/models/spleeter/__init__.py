# SPDX-License-Identifier: Apache-2.0
"""Spleeter: the stems of a song, by one U-Net a stem on the magnitude spectrogram."""
