# SPDX-License-Identifier: Apache-2.0
"""Training recipes: each module has a `main(config, data, output, **overrides)` that `hubsep train` calls."""
