# SPDX-License-Identifier: Apache-2.0
"""Saves that can be told apart by their weights, and what lies beside them in a folder."""

from __future__ import annotations

from pathlib import Path

from children import Children
from tiny import TinyModel

from hubsep.hub import verify_manifest


PROCESSOR = '{"processor_class": "ClapProcessor"}'  # a folder with one that loading would refuse is not written


def number_in(folder: Path) -> int:
    """The number of the one save a complete folder comes from."""
    verify_manifest(folder)
    model = TinyModel.from_pretrained(folder)
    values = {value for parameter in model.parameters() for value in parameter.flatten().tolist()}
    assert len(values) == 1, f"a mixture of the saves {values}"
    number = int(values.pop())
    assert model.config.num_layers == 1 + number % 3
    return number


def furnish(folder: Path) -> None:
    """Put next to a model what users and the Trainer put there."""
    (folder / "README.md").write_text("our card")
    (folder / "processor_config.json").write_text(PROCESSOR)
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "optimizer.pt").write_bytes(b"optimizer")
    (folder / "training_args.bin").write_bytes(b"arguments")


def save_numbered(child: Children, target: Path, number: int) -> None:
    child.run("save_until_operation", str(target), number, 0, True)
