# SPDX-License-Identifier: Apache-2.0
"""Conv-TasNet: speakers apart, or speech from noise, by masks on a learnt filterbank."""
