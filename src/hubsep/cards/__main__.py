# SPDX-License-Identifier: Apache-2.0
"""`python -m hubsep.cards` writes the cards of the shipped models and the page of all of them."""

from .card import main


if __name__ == "__main__":
    main()
