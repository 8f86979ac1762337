"""A clock that is a day off for a moment: everything serves again by itself. Of a sleep there is a case in `cases/`."""

import subprocess
import time
from collections.abc import Iterator
from itertools import count

import pytest

from tests.e2e.running import Deployment, ipls, running
from tests.faults.clocks import Clock

DAY_S = 86_400
WITHIN_S = 90


class Person:
    """Somebody with a phone whose clock is that of the services."""

    def __init__(self, deployment: Deployment, clock: Clock) -> None:
        self._deployment = deployment
        self._clock = clock
        self._numbers = count(15550001000)
        self._number = self._has = 0

    def tries(self, act: str, *, patience: int = 1) -> "subprocess.CompletedProcess[str]":
        """Once. Each registration is of a new number: one number gets so many codes an hour."""
        folder = self._deployment.folder
        register = act == "register"
        self._number = next(self._numbers) if register else self._has
        where = ("--endpoints", folder / "endpoints.json", "--outbox", folder / "data/registration.outbox")
        options = ["--home", folder / "profiles", "--profile", self._number, "--patience", patience]
        words = (f"+{self._number}", *where) if register else ()
        return ipls("client", act, *words, *options, env=self._clock.environment)

    def does(self, *acts: str) -> None:
        """Each, again and again until it works, within 90 s for all."""
        end = time.monotonic() + WITHIN_S
        for act in acts:
            while (ended := self.tries(act, patience=WITHIN_S // 4)).returncode:
                assert "Traceback" not in ended.stderr
                assert time.monotonic() < end, f"{act}: {ended.stderr}"
            self._has = self._number


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def person(clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    folder = tmp_path_factory.mktemp("deployment") / "ipls"
    with running(folder, environment=clock.environment) as deployment:
        person = Person(deployment, clock)
        person.does("register", "store")
        yield person


@pytest.mark.parametrize(("step_s", "said"), [(DAY_S, ""), (-DAY_S, "; next: set this machine's clock right")])
def test_a_clock_that_was_a_day_off_for_a_moment(person: Person, clock: Clock, step_s: int, said: str) -> None:
    clock.set(step_s)
    ends = [person.tries(act) for act in ("monitor", "store", "register")]
    clock.set(0)
    for ended in ends:
        assert ended.returncode in (0, 1, 3)
        assert "Traceback" not in ended.stderr
        assert said in ended.stderr
    person.does("monitor", "store", "register")
