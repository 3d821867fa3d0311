# SPDX-License-Identifier: Apache-2.0
"""`python -m hubsep` is the `hubsep` command, also under `accelerate launch -m hubsep`."""

import sys

from .cli import main


if __name__ == "__main__":
    sys.exit(main())
