# SPDX-License-Identifier: Apache-2.0
"""What goes wrong between this computer and the Hub: one error of ours, and no token in it.

Which HTTP library is below, and so which errors it has, differs between versions of huggingface_hub; that is why every
error is caught. A token that cannot be sent is refused before it is tried: the HTTP library would print it in its own
error. A token that another error shows all the same is blotted out, and so is the traceback it would be seen in.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import CheckpointError, HubsepError, UnreachableError


MAX_REASON_CHARACTERS = 400
# errors of the HTTP libraries, by name, where no answer came
NO_ANSWER = {
    "ConnectError", "ConnectTimeout", "ConnectionError", "NewConnectionError", "ProxyError", "gaierror",
    "ConnectionRefusedError",
}  # fmt: skip
COMMIT = re.compile(r"\b[0-9a-f]{40}\b")


def check_token(token: str | bool | None) -> None:
    """Refuse a token that no HTTP header can hold, whether given or the one of this user.

    Raises:
        CheckpointError: without the token.
    """
    sent = _sent(token)
    if sent is not None and not (sent.isascii() and sent.isprintable() and " " not in sent):
        raise CheckpointError("the token holds a space, a line break or another character no token has.")


@contextmanager
def wire_errors(what: str, token: str | bool | None, hint: str = "") -> Iterator[None]:
    """Turn whatever is raised on the way to or from the Hub into a `CheckpointError`: `what`, the reason, `hint`."""
    try:
        yield
    except HubsepError:
        raise
    except Exception as error:
        silence = unreached(error)
        reason = COMMIT.sub("...", " ".join(str(error).split()))  # an address of the Hub holds one, which says nothing
        said = f"{silence}." if silence else f"{type(error).__name__}: {reason}"
        cause: Exception | None = error
        sent = _sent(token)
        if sent and sent in "".join(traceback.format_exception(error)):
            said, cause = said.replace(sent, "***"), None
        kind = UnreachableError if silence else CheckpointError
        raise kind(f"{what}: {said[:MAX_REASON_CHARACTERS]}{hint}") from cause


def unreached(error: BaseException) -> str | None:
    """Why nobody answered, if that is what an error comes from; None of any other."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    names = {type(each).__name__ for each in chain}
    if "OfflineModeIsEnabled" in names or any("outgoing traffic has been disabled" in str(each) for each in chain):
        return "nothing may be fetched now, as HF_HUB_OFFLINE or local_files_only says, and it is not on this computer"
    if names & NO_ANSWER:
        host = next((f" ({each})" for each in chain if isinstance(each, OSError) and each.errno is not None), "")
        return f"there is no connection to it{host}; look at the network, and try again"
    return None


def _sent(token: str | bool | None) -> str | None:
    """The token that requests carry; None if there is none, or it cannot be found out."""
    from huggingface_hub.utils import get_token_to_send

    with suppress(Exception):  # a login that has run out is the Hub's to report, with the request that needs it
        return get_token_to_send(token)
    return None


__all__ = ["check_token", "wire_errors"]
