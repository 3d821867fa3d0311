# SPDX-License-Identifier: Apache-2.0
"""`python tests/support/fuzz KIND SEED` runs one case; `--cases N --base SEED` runs many."""

from __future__ import annotations

import sys
from pathlib import Path


SUPPORT = Path(__file__).resolve().parents[1]
sys.path[:] = [
    str(SUPPORT),
    str(SUPPORT.parents[1] / "src"),
    *(place for place in sys.path if Path(place or ".").resolve() != SUPPORT / "fuzz"),
]

from fuzz.run import main  # noqa: E402 - the paths come first


sys.exit(main(sys.argv[1:]))
