# SPDX-License-Identifier: Apache-2.0
"""`python tests/fuzz KIND SEED` runs one case and says what became of it; `--cases N --base SEED` runs many."""

from __future__ import annotations

import sys
from pathlib import Path


TESTS = Path(__file__).resolve().parents[1]
sys.path[:] = [
    str(TESTS),
    str(TESTS.parent / "src"),
    *(place for place in sys.path if Path(place or ".").resolve() != TESTS / "fuzz"),
]

from fuzz.run import main  # noqa: E402 - the paths come first


sys.exit(main(sys.argv[1:]))
