# SPDX-License-Identifier: Apache-2.0
"""How AudioLDM 2's parts are read from a folder, kept in memory and moved."""
