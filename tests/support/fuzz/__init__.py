# SPDX-License-Identifier: Apache-2.0
"""Fuzzing that stays: seeded cases of everything somebody else may have written, each run in a process with limits.

A case is a kind and a seed. The same two make the same files on every machine, so that a fault is repeated by the one
command that is printed with it: `python tests/support/fuzz KIND SEED`. What was found is written out in `found.py`.

- `values.py`: hostile values by type, and changes to JSON, text and bytes; `tensors.py`: changes to weights;
  `containers.py`, `pickles.py`, `bundles.py`: tables of files that lie.
- `recordings.py`, `urls.py`, `folders.py`, `adapters.py`, `components.py`, `checkpoints.py`, `tables.py`: the kinds.
  Each has templates, made once, and cases, which change a copy and hand it to hubsep.
- `cases.py`: what a case is; `watch.py`: what it must not touch; `child.py`: its process, limits and verdict;
  `run.py`: many of them, and the command line.
- `planted.py`: faults on purpose, which have to be noticed.
"""
