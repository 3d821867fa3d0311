# SPDX-License-Identifier: Apache-2.0
"""Many recordings: which, where their results go, who works on which."""
