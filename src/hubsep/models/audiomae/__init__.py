# SPDX-License-Identifier: Apache-2.0
"""AudioMAE: a transformer that hears a spectrogram in patches, and the "language of audio" that is made of it."""
