# SPDX-License-Identifier: Apache-2.0
"""A small classifier of sounds, with which generated ones are judged."""
