# SPDX-License-Identifier: Apache-2.0
"""Training of AudioLDM 2's parts."""
