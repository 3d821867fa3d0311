# SPDX-License-Identifier: Apache-2.0
"""`python -m hubsep.leaderboard` writes docs/leaderboard.md (`cards/leaderboard.py`)."""

from .cards.leaderboard import PAGE, main, render


if __name__ == "__main__":
    main()

__all__ = ["PAGE", "main", "render"]
