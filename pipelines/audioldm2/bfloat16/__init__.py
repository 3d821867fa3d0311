# SPDX-License-Identifier: Apache-2.0
"""What makes generation fast on processors that multiply in bfloat16."""
