# SPDX-License-Identifier: Apache-2.0
"""Two hundred seeded cases of files somebody else wrote, what they once found, and faults on purpose."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest
from children import Children
from fuzz.found import FOUND
from fuzz.planted import EXPECTED
from fuzz.run import WEIGHTS, run_many, run_one


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and watches are those of Linux")
CASES, BASE = 200, 0  # `make fuzz` has more, with another base


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    children = Children("fuzz.child")
    yield children
    children.close()


@pytest.mark.timeout(3_600)  # every case has its own limits; on a machine shared by twenty others it takes long
def test_no_case_breaks_a_promise_and_many_get_far(children: Children) -> None:
    """Some of each kind are accepted and used, some refused, and by many checks: else little would be asked."""
    totals = run_many(children, CASES, BASE)
    assert not totals.faults, "\n".join(totals.faults)
    assert sum(sum(outcomes.values()) for outcomes in totals.outcomes.values()) == CASES
    accepted = {
        kind: sum(outcomes.values()) - outcomes["refused"] - outcomes["fault"]
        for kind, outcomes in totals.outcomes.items()
    }
    for kind in WEIGHTS:
        assert accepted[kind] >= 1, f"{kind}\n{totals.table()}"
        assert totals.outcomes[kind]["refused"] >= 2, f"{kind}\n{totals.table()}"
    assert sum(accepted.values()) >= CASES / 5, totals.table()
    assert len(set().union(*totals.refusals.values())) >= 25, totals.table()


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_mended(name: str, children: Children) -> None:
    verdict = run_one(children, "found", list(FOUND).index(name))
    assert verdict["outcome"] != "fault", verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_planted_faults_are_noticed(name: str, children: Children) -> None:
    verdict = run_one(children, "planted", list(EXPECTED).index(name))
    assert verdict["outcome"] == "fault", f"{name} went unnoticed"
    assert re.search(EXPECTED[name], verdict["fault"]), verdict["fault"]


@pytest.mark.slow
def test_a_case_is_the_same_every_time(children: Children) -> None:
    for kind in WEIGHTS:
        first, second = (run_one(children, kind, 3) for _ in range(2))
        assert first["notes"] == second["notes"]
        assert (first["outcome"], first["where"]) == (second["outcome"], second["where"])


def test_who_stops_waiting_for_a_case_leaves_no_answer_to_the_next() -> None:
    def give_up(*_: object) -> NoReturn:
        raise TimeoutError

    before, main = signal.signal(signal.SIGUSR1, give_up), threading.main_thread().ident
    assert main is not None
    helper = Children("time")
    try:
        threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGUSR1)).start()
        with pytest.raises(TimeoutError):
            helper.run("sleep", 3)
        assert helper.run("strftime", "next") == (0, "next", "")
    finally:
        signal.signal(signal.SIGUSR1, before)
        helper.close()
