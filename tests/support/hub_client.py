# SPDX-License-Identifier: Apache-2.0
"""huggingface_hub pointed at a server of the tests, in this process or in one that is started.

It reads most of its settings from the environment once, when it is imported, which here has long happened: the same
settings are changed where it keeps them. One test starts a process and so checks that the environment does the same.
"""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from transformers.utils import hub as transformers_hub


def point_at(monkeypatch: pytest.MonkeyPatch, url: str, home: Path, token: str | None) -> None:
    """Let this process use the Hub at `url`, an empty cache in `home`, and the token as its user's own."""
    settings = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
    monkeypatch.setattr(transformers_hub, "_hf_api", None)  # kept from an earlier call
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    log_in(monkeypatch, token)
    close_session()  # it may hold the proxy of another time


def log_in(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """Let the token be the user's own; None logs out."""
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)


def environment(url: str, home: Path, token: str) -> dict[str, str]:
    """The same for a process that is started."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }


__all__ = ["environment", "log_in", "point_at"]
