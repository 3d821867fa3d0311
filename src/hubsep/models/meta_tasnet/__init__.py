# SPDX-License-Identifier: Apache-2.0
"""Meta-TasNet: the instruments of a song apart, by networks that a small generator makes for each instrument."""
