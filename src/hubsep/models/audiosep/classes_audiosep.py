# SPDX-License-Identifier: Apache-2.0
"""Room for more meanings in the query classifier of an AudioSep.

A model with `query_classes` hears a query only through the classes it knows; a sound it was never taught needs one of
its own. Decisions: a new class begins with the mean effect of those that are there and with a logit so low that no
query falls to it, so the model is the same as before to every query until the class is taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...hub.bounds import shown


MAX_CLASSES = 10_000
ELSE = "anything else"  # the class of sounds that were never taught
UNTAUGHT = -30.0  # bias of a class that nothing is to fall to


@torch.no_grad()
def add_query_classes(model: Any, names: Sequence[str]) -> None:
    """Gives the query network of a model more classes, in place; a model without classes stays as it is.

    Args:
        model: an `AudioSepForAudioSeparation`.
        names: of the new classes.

    Raises:
        CheckpointError: if a name is there already, or there are too many.
    """
    if not model.config.query_classes or not names:
        return
    classes = list(model.config.query_classes)
    twice = sorted(set(names) & set(classes))
    if twice or len(set(names)) < len(names):
        raise CheckpointError(f"the model has a query class {shown((twice or list(names))[0])} already.")
    if len(classes) + len(names) > MAX_CLASSES:
        raise CheckpointError(f"{len(classes) + len(names)} query classes are more than {MAX_CLASSES}.")
    network = model.query_network
    old, values = network.linear2, network.values
    count = len(classes) + len(names)
    sizes = {"linear2": (old.in_features, count), "values": (count, values.out_features)}
    for layer, kept in (("linear2", old), ("values", values)):
        inputs, outputs = sizes[layer]
        new_layer = nn.Linear(
            inputs, outputs, bias=kept.bias is not None, device=kept.weight.device, dtype=kept.weight.dtype
        )
        new_layer.weight.requires_grad = kept.weight.requires_grad
        setattr(network, layer, new_layer)
    fill(network.linear2.weight, old.weight, torch.zeros_like(old.weight[:1]).expand(len(names), -1))
    fill(network.linear2.bias, old.bias, old.bias.new_full((len(names),), UNTAUGHT))
    fill(network.values.weight.T, values.weight.T, values.weight.mean(dim=1).expand(len(names), -1))
    network.linear2.bias.requires_grad = old.bias.requires_grad
    if model.config.listener_channels and not model.config.listener_classes:
        model.config.listener_classes = len(classes)  # it does not hear the new ones
    model.config.query_classes = [*classes, *names]


def fill(target: Tensor, old: Tensor, new: Tensor) -> None:
    """Copies two tensors into the rows of a third."""
    target[: len(old)].copy_(old)
    target[len(old) :].copy_(new)


__all__ = ["ELSE", "add_query_classes"]
