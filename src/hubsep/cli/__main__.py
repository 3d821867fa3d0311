# SPDX-License-Identifier: Apache-2.0
"""`python -m hubsep.cli` is `hubsep`."""

import sys

from .main import main


sys.exit(main())
