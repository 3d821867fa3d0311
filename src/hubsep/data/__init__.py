# SPDX-License-Identifier: Apache-2.0
"""Datasets of recordings in folders with a `metadata.csv`, and mixtures made from them on the fly."""
