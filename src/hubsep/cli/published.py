# SPDX-License-Identifier: Apache-2.0
"""`hubsep list --published`: the checkpoints that authors published, a line each."""

from __future__ import annotations

import json
from dataclasses import asdict

from ..hub.published import published


COLUMNS = "{:<45}{:>9}  {:<16}{}"  # at most 80 characters


def show_published(*, commercial: bool, as_json: bool) -> None:
    """Prints a line for each published checkpoint, by what it does."""
    rows = [row for row in published().values() if row.commercial or not commercial]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
        return
    print(COLUMNS.format("name", "rate", "licence", "use"))
    for purpose in dict.fromkeys(row.does for row in rows):
        print(f"\n{purpose}")
        for row in rows:
            if row.does == purpose:
                use = "any" if row.commercial else "research"
                name = row.name if row.opens_by_name else f"{row.name} *"
                print(COLUMNS.format(name, f"{row.sampling_rate} Hz", row.licence, use))
    if not all(row.opens_by_name for row in rows):
        print("\n* fetched and converted by hand; `hubsep info NAME` says how.")


__all__ = ["show_published"]
