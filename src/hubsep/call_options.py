# SPDX-License-Identifier: Apache-2.0
"""What can be chosen for a call beside what the pipeline itself offers: fields that a configuration declares.

A configuration names the fields that change nothing but how a loaded model is used in `call_options`. A call gets the
same weights under a configuration of its own, so threads that share a model can choose differently. The values are
checked as if they had been in `config.json`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from .errors import HubsepError, QueryError
from .hub_config import config_errors


# what accelerate hangs on a model for the model it was hung on; what is inside of a model keeps its own
HOOKS = ("forward", "_old_forward", "_hf_hook")


def with_options(model: Any, options: Mapping[str, Any] | None) -> Any:
    """A model of the same weights with other options; the model itself stays as it is.

    Args:
        model: any model of the package.
        options: names and values of fields that its configuration lists in `call_options`.

    Raises:
        QueryError: if the model has no such option, or does not take this value.
    """
    if not options:
        return model
    known = tuple(getattr(model.config, "call_options", ()))
    unknown = [name for name in options if name not in known]
    if unknown:
        offered = f"it takes {', '.join(known)}" if known else "it has none"
        raise QueryError(f"{unknown[0]!r} is no option of this {model.config.model_type} model; {offered}")
    config = copy.deepcopy(model.config)
    complete = getattr(config, "complete_options", dict)
    try:
        with config_errors("model_options"):
            for name, value in complete(dict(options)).items():
                setattr(config, name, value)
            config.check_fields()
    except HubsepError as error:
        raise QueryError(f"model_options: {error}") from error
    view = copy.copy(model)
    for name in HOOKS:
        view.__dict__.pop(name, None)
    view.config = config
    return view


__all__ = ["with_options"]
