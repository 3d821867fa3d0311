# SPDX-License-Identifier: Apache-2.0
"""`python -m hubsep.cards` writes the cards of the shipped models, the page of all of them, and docs/models.md."""

from . import catalogue
from .card import main


if __name__ == "__main__":
    main()
    catalogue.main()
