"""Running studies are killed (SIGKILL) at random instants: what they acknowledged is there, and they go on as if nothing had been.

A life of a driver opens the study and does one random thing after another, writing down what was acknowledged, until it is
killed from outside, or kills itself at the n-th statement it sends to the database. After each death the study is opened
again and compared with a mirror: a study in memory that was never interrupted, of the same seed, told the same.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from zoopt import Bool, Choice, Integer, Real, Space, Study
from zoopt.errors import Exhausted, NotReady
from zoopt.feedback import Candidates, Observations
from zoopt.journal import Event, Journal
from zoopt.random import Random
from zoopt.restore import ReplayWarning
from zoopt.stop import Evaluations
from zoopt.strategies.bo.automatic import Automatic
from zoopt.strategy import Capabilities, Request, State, Strategy, Task, make
from zoopt.trials import TrialState

pytestmark = pytest.mark.filterwarnings("error::zoopt.restore.ReplayWarning")  # in the lives too: see live()

Array = np.ndarray[Any, Any]
Say = Callable[..., None]
SEED = os.environ.get("ZOOPT_SEED", "0")  # another one: other lives, killed at other instants


@dataclass
class ModelState(State):
    """All that was told, and the weights of the model."""

    told: dict[str, Tensor] = field(default_factory=dict)
    weights: Tensor = field(default_factory=lambda: torch.zeros(40_000, dtype=torch.float64))


@dataclass(frozen=True)
class Model(Strategy[ModelState]):
    """Stands for a model that takes long to fit: its proposals depend on all it was told in that order, on what is out and on the key."""

    step: float = 0.37  # how far each observation moves the weights
    thinking: ClassVar[float] = 0.0  # seconds before each proposal; the lives set it, the mirror need not wait

    capabilities: ClassVar[Capabilities] = Capabilities(objectives=None)

    def begin(self, task: Task, random: Random) -> ModelState:
        return ModelState()

    def ask(self, task: Task, state: ModelState, request: Request, random: Random) -> tuple[ModelState, Candidates]:
        time.sleep(self.thinking)
        d = task.dim
        moved = state.weights[:d] + request.pending(task).sum(0) + 0.01 * (request.remaining or 0)
        x = (random.uniform((request.n or 1, d)) + moved) % 1.0
        return state, Candidates(task.space.from_unit(x))

    def tell(self, task: Task, state: ModelState, observations: Observations, random: Random) -> ModelState:
        values = torch.where(observations.ok.unsqueeze(-1), observations.values, 3.0)
        parts = {"x": observations.x, "values": values, "ids": torch.from_numpy(observations.ids)}
        if observations.constraints is not None:
            parts["constraints"] = observations.constraints
        if observations.noise is not None:
            parts["noise"] = observations.noise
        for name, new in parts.items():
            state.told[name] = torch.cat([state.told[name], new]) if name in state.told else new.clone()
            state.weights[: task.dim] += self.step * new.to(torch.float64).sum() + 0.1 * random.child(name).uniform(task.dim)
        return state


@dataclass(frozen=True)
class Scenario:
    """A study to be killed, how often, and how it is used."""

    strategy: Strategy[Any] | str
    space: Space
    kills: int
    batches: tuple[int, ...] = (1,)
    parallel: int = 1
    acknowledged: int = 25  # most that a life is let acknowledge before it is killed
    options: dict[str, Any] = field(default_factory=dict)

    def study(self, journal: str | None = None) -> Study:
        strategy = make(self.strategy) if isinstance(self.strategy, str) else self.strategy
        return Study(self.space, strategy, seed=7, journal=journal, **self.options)


def box(dim: int) -> Space:
    return Space({"x": Real(0, 1, shape=(dim,))})


def mixed() -> Space:
    """Grids and widths whose encoding is exact, so that a point may go through its parameters."""
    return Space(
        {
            "x": Real(-4, 4),
            "k": Integer(1, 8),
            "flag": Bool(),
            "kind": Choice("a", "b", "c"),
            "y": Real(0, 2, when={"kind": ["b", "c"]}),
        },
        constraints=["x + k <= 10"],
    )


FULL, PROCESS = {"durability": "full"}, {"durability": "process"}
TWO = {"objectives": {"loss": "minimize", "speed": "maximize"}}
SCENARIOS = {
    "random": Scenario("random", mixed(), 8, acknowledged=30, options=FULL),
    "random-batches": Scenario("random", box(3), 6, (1, 2, 7, 40), 60, 30, PROCESS | {"constraints": ["heat", "load"]}),
    "finite": Scenario("random", Space({"k": Integer(0, 40), "b": Bool()}), 5, (1, 3), 4, 20, PROCESS | {"deterministic": True}),
    "cma-es": Scenario("cma-es", box(4), 7, acknowledged=40, options=PROCESS),
    "cma-es-parallel": Scenario("cma-es", mixed(), 6, (1, 2, 3, 6), 10, 30, FULL | {"direction": "maximize"}),
    "ranked": Scenario("cma-es", box(3), 4, (1, 3, 7), 10, 30, PROCESS | {"feedback": "ranking"}),
    "nsga2": Scenario("nsga2", box(3), 4, (1, 4), 30, 30, PROCESS | TWO),
    "model": Scenario(Model(), box(3), 6, (1,), 1, 12, FULL | TWO | {"stop": Evaluations(60)}),
    "model-parallel": Scenario(Model(), mixed(), 6, (1, 3), 5, 16, PROCESS | {"constraints": ["heat"]}),
    "bo": Scenario(make("bo", acquisition=Automatic(samples=16), raw_samples=16, restarts=1), box(2), 3, (1, 2), 3, 9, FULL),
}
REAL_STARTS = 2  # further deaths, of interpreters started anew
assert sum(scenario.kills for scenario in SCENARIOS.values()) + REAL_STARTS > 50

# One life


def live(name: str, address: str, life: int, die: int, say: Say) -> None:
    """Open the study and use it until killed; with ``die > 0`` killed by its own hand at that statement, before or after it."""
    Model.thinking = 0.06
    warnings.simplefilter("error", ReplayWarning)
    if die:
        _die_at_statement(die // 2, before=die % 2 == 0)
    scenario = SCENARIOS[name]
    study = scenario.study(address)
    say("opened")
    chance = random.Random(life)
    while True:
        _act(scenario, study, chance, say)


def _die_at_statement(n: int, *, before: bool) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    left = [n]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute" if before else "after_cursor_execute", count)


def _act(scenario: Scenario, study: Study, chance: random.Random, say: Say) -> None:
    """One random thing that a user may do."""
    pending = [trial.id for trial in study.pending]
    rare = chance.random()
    if rare < 0.03 and study.task.feedback == "values":
        point, told = _point(study, chance), _told(study, 1, chance)
        trial = study.add(point, told.pop("values"), metrics={"point": _plain(point)}, **told)
        say("added", [trial.id, list(trial.values.values())])
    elif rare < 0.05:
        study.enqueue(_point(study, chance))
        say("enqueued")
    elif rare < 0.07 and study.task.feedback == "values" and (done := _complete(study)):
        i = chance.choice(done[-20:])
        study.amend(i, _told(study, 1, chance)["values"])
        say("amended", [i, list(study.trial(i).values.values())])
    elif rare < 0.10 and study.task.feedback == "values" and (done := _complete(study)):
        i = chance.choice(done)
        study.tell(i, study.trial(i).values, constraints=study.trial(i).constraints or None)  # again the same: nothing happens
        say("retold")
    elif rare < 0.13 and pending:
        study.report(chance.choice(pending), chance.randrange(5), chance.random())
        say("reported")
    elif rare < 0.15 and pending:
        study.retry(pending[:1])
        say("retried")
    elif rare < 0.17 and study.rankings:
        study.withdraw(chance.choice(list(study.rankings)))
        say("withdrawn")
    elif len(pending) < scenario.parallel and (not pending or chance.random() < 0.6):
        try:
            n = min(chance.choice(scenario.batches), scenario.parallel - len(pending))
            asked = study.ask(n) if n > 1 else [study.ask()]
            say("asked", *([trial.id, trial.encoded.tolist()] for trial in asked))
        except NotReady:
            _answer(study, pending, chance, say)
        except Exhausted:
            say("exhausted")
            _answer(study, pending, chance, say)
    else:
        _answer(study, pending, chance, say)


def _answer(study: Study, pending: list[int], chance: random.Random, say: Say) -> None:
    """Tell something of what is pending: any trials, in any order, with values, failures, NaN, one objective only, ..."""
    if not pending:
        time.sleep(0.002)
        return
    ids = chance.sample(pending, chance.randint(1, min(len(pending), chance.choice((1, 1, 4, 30)))))
    how = chance.random()
    if how < 0.08:
        study.fail(ids, "diverged")
        say("failed", *([i, None] for i in ids))
    elif how < 0.12:
        study.drop(ids)
        say("dropped", *([i, None] for i in ids))
    elif study.task.feedback == "ranking":
        tiers = [ids[:1], *ids[1:-2], ids[-2:]] if len(ids) > 2 else [ids]
        study.rank(tiers, rest=chance.choice(("worse", "unseen")), rater="Ada")
        say("ranked")
    else:
        told = _told(study, len(ids), chance)
        if len(study.directions) > 1 and how < 0.45:
            one = chance.randrange(2)
            study.tell(ids, {list(study.directions)[one]: told["values"][:, one]})
        else:
            if how < 0.3:
                told["values"][chance.randrange(len(ids))] = chance.choice((math.nan, math.inf))
            if how > 0.8:
                told["metrics"] = {"seconds": chance.random(), "note": "é"}
            if 0.6 < how < 0.8 and study.space.box:
                told["at"] = [_point(study, chance) for _ in ids]
            if how > 0.9:
                told["noise"] = np.full_like(told["values"], 0.5)
            if len(ids) == 1 and len(told) == 1 and len(study.directions) == 1:
                study.tell(study.trial(ids[0]), float(told["values"][0, 0]))
            else:
                study.tell(ids, told.pop("values"), **told)
        for i in ids:
            trial = study.trial(i)
            say({TrialState.COMPLETE: "told", TrialState.FAILED: "failed"}.get(trial.state, "partly"), [i, list(trial.values.values())])


def _point(study: Study, chance: random.Random) -> dict[str, Any]:
    """A point on a grid whose encoding is exact."""
    while True:
        u = torch.tensor([[chance.randrange(1, 16) / 16 for _ in range(study.space.dim)]], dtype=torch.float64)
        x = study.space.snap(study.space.from_unit(u))
        if study.space.allowed(x.numpy()).all():
            return study.space.params(x)[0]


def _told(study: Study, n: int, chance: random.Random) -> dict[str, Any]:
    """Values of few digits, so that some are equal."""
    told: dict[str, Any] = {"values": np.array([[chance.randrange(-20, 20) / 4 for _ in study.directions] for _ in range(n)])}
    if study.task.constraints:
        told["constraints"] = np.array([[chance.randrange(-5, 3) / 2 for _ in study.task.constraints] for _ in range(n)])
    return told


def _complete(study: Study) -> list[int]:
    return [int(i) for i in np.nonzero(study.history()["state"] == "complete")[0]]


def _plain(point: dict[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in point.items()}


# The process from which lives are forked


def serve() -> None:
    """Import and try everything, then fork a life for each line of standard input and say how it ended."""
    for scenario in SCENARIOS.values():
        _warm(scenario)
    _say("ready")
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            begin(*json.loads(line))
        _say("\nended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def begin(name: str, address: str, life: int, die: int) -> None:
    """A life in this process, which ends with it."""
    signal.alarm(60)  # never left behind
    _say("began", os.getpid())
    try:
        live(name, address, life, die, _say)
    except BaseException as error:
        _say("\nraised", f"{type(error).__name__}: {error}")
        raise
    finally:
        os._exit(1)


def begin_when_told(*arguments: Any) -> None:
    """As ``begin``, after a line of standard input."""
    sys.stdin.readline()
    begin(*arguments)


def _warm(scenario: Scenario) -> None:
    study = scenario.study()
    for _ in range(8):
        _answer(study, [study.ask().id], random.Random(0), lambda *_: None)


def _say(kind: str, *what: Any) -> None:
    prefix = "\n" if kind.startswith("\n") else ""  # after a line that death cut short
    os.write(1, (prefix + json.dumps([kind.lstrip("\n"), *what]) + "\n").encode())


LOADER = """
import importlib.util, sys
import torch
torch.set_num_threads(1)
name, path, function, *arguments = sys.argv[1:]
spec = importlib.util.spec_from_file_location(name, path)
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
getattr(module, function)(*(int(a) if a.lstrip("-").isdigit() else a for a in arguments))
"""


def start(function: str, *arguments: Any) -> subprocess.Popen[str]:
    """A new interpreter in which this very file is loaded under the same name, so that classes are called the same."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", LOADER, __name__, __file__, function, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def lines(output: IO[str] | None) -> Iterator[list[Any]]:
    """What a process says; a line that death cut short is left out."""
    assert output is not None
    for line in output:
        with suppress(json.JSONDecodeError):
            said = json.loads(line)
            assert said[0] != "raised", said
            yield said


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    """The warm process; it goes away when its standard input is closed."""
    process = start("serve")
    for scenario in SCENARIOS.values():
        _warm(scenario)  # here too, at the same time
    assert next(lines(process.stdout)) == ["ready"]
    yield process
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes: sums come out alike
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite:///{tmp_path}/study.db"


# What must hold after each death


class Mirror:
    """A study in memory that was never interrupted and is told what the record says; it refuses a record it would not have made."""

    def __init__(self, scenario: Scenario) -> None:
        self.study = scenario.study()
        self.seq = -1
        self.amended: dict[int, list[float]] = {}

    def follow(self, address: str) -> None:
        """Do what was recorded since the last time."""
        with Journal(address, read_only=True) as journal:
            events = journal.study("study").events(after=self.seq)
        for event in events:
            assert event.seq == self.seq + 1
            self.seq = event.seq
            self._do(event)

    def _do(self, event: Event) -> None:
        study, note = self.study, event.note or {}
        records: Any = event.records
        ids = [] if records is None else [int(i) for i in records["id"]]
        if event.kind == "asked":
            asked = study.ask(event.asked or 1)
            assert list(asked.ids) == ids
            np.testing.assert_array_equal(asked.encoded.numpy(), records["x"])
        elif event.kind == "told":
            self._tell(ids, records, note)
        elif event.kind == "failed":
            assert all(study.trial(i).state is TrialState.PENDING for i in ids)
            (reason,) = set(note["reasons"])
            study.fail(ids, reason)
        elif event.kind == "dropped":
            study.drop(ids)
        elif event.kind in ("retried", "lost"):
            study.retry(ids)
            assert (study.trial(ids[0]).state is TrialState.LOST) == (event.kind == "lost")
        elif event.kind == "added":
            told = {name: records[name] for name in ("constraints",) if name in records.dtype.names}
            trial = study.add(note["metrics"][str(ids[0])]["point"], records["values"], metrics=note["metrics"][str(ids[0])], **told)
            assert [trial.id] == ids
            np.testing.assert_array_equal(trial.encoded.numpy(), records["x"][0])
        elif event.kind == "enqueued":
            study.enqueue(study.space.params(records["x"])[0])
        elif event.kind == "amended":
            study.amend(ids, records["values"])
            self.amended.update(zip(ids, records["values"].tolist(), strict=True))
        elif event.kind == "ranked":
            assert study.rank(note["tiers"], rest="unseen", rater=note["rater"]) == note["id"]
            assert study.rankings[note["id"]].unseen == tuple(note["unseen"])
        elif event.kind == "withdrawn":
            study.withdraw(note["ranking"])
        elif event.kind == "reported":
            study.report(ids[0], records["step"][0], records["value"][0])
        else:
            assert event.kind in ("began", "opened"), event.kind

    def _tell(self, ids: list[int], records: Any, note: dict[str, Any]) -> None:
        study, names = self.study, records.dtype.names
        told: dict[str, Any] = {name: records[name] for name in ("constraints", "noise") if name in names}
        if "at" in names:
            told["at"] = study.space.params(records["at"])
        if "metrics" in note:
            told["metrics"] = {key: [note["metrics"][str(i)][key] for i in ids] for key in note["metrics"][str(ids[0])]}
        if note.get("partial"):
            for i, values in zip(ids, records["values"].tolist(), strict=True):
                study.tell(i, {name: value for name, value in zip(study.directions, values, strict=True) if value == value})
        else:
            study.tell(ids, records["values"], **told)


def same(reopened: Study, mirror: Study) -> None:
    """Whether two studies cannot be told apart by a user."""
    ours, theirs = reopened.history(), mirror.history()
    assert list(ours) == list(theirs)
    assert all(list(map(repr, ours[name])) == list(map(repr, theirs[name])) for name in ours)
    assert reopened.status == mirror.status
    assert [trial.id for trial in reopened.pending] == [trial.id for trial in mirror.pending]
    for a, b in ((reopened.trial(i), mirror.trial(i)) for i in range(len(ours["id"]))):
        np.testing.assert_array_equal(a.encoded, b.encoded)
        assert (a.values, a.state, a.error, a.metrics) == (b.values, b.state, b.error, b.metrics)
        assert reopened.reports(a) == mirror.reports(b)
    if len(reopened.directions) == 1:
        assert repr(reopened.best) == repr(mirror.best)
        assert reopened.evaluations - reopened._ledger.improved_at == mirror.evaluations - mirror._ledger.improved_at
    else:
        assert repr(reopened.front) == repr(mirror.front)
    assert repr(reopened.recommended) == repr(mirror.recommended)
    assert reopened.rankings == mirror.rankings


class Witness:
    """What all lives of a study had acknowledged."""

    def __init__(self) -> None:
        self.points: dict[int, list[float]] = {}
        self.trials: dict[int, tuple[str, Any]] = {}

    def hears(self, kind: str, *what: Any) -> None:
        """One line of a life."""
        for i, seen in what if kind in ("asked", "added", "told", "partly", "failed", "dropped", "amended") else ():
            if kind in ("asked", "added"):
                assert i not in self.points, f"id {i} was given out twice"
                self.points[i] = seen if kind == "asked" else []
            if kind != "asked":
                self.trials[i] = (kind, seen)

    def testifies(self, study: Study, mirror: Mirror) -> None:
        """Everything acknowledged is in the reopened study."""
        for i, point in self.points.items():
            assert not point or study.trial(i).encoded.tolist() == point
        states = {"failed": TrialState.FAILED, "dropped": TrialState.DROPPED}
        for i, (kind, values) in self.trials.items():
            trial = study.trial(i)
            if kind == "partly":  # more may have been recorded than was acknowledged
                assert trial.state is not TrialState.PENDING or len(trial.values) >= len(values)
                continue
            assert trial.state is states.get(kind, TrialState.COMPLETE), trial
            if kind in ("told", "added", "amended") and list(trial.values.values()) != values:
                assert list(trial.values.values()) == mirror.amended.get(i), trial  # recorded, but killed before it was acknowledged


def listen(said: Iterator[list[Any]], kill: bool, acknowledged: int, chance: random.Random, witness: Witness) -> None:
    """Hear a life out; if ``kill``, kill it some time after it acknowledged so much."""
    kind, pid = next(said)
    assert kind == "began"
    heard = 0
    while True:
        if kill and heard >= acknowledged:
            time.sleep(chance.random() * (0.02 if heard else 0.2))
            os.kill(pid, signal.SIGKILL)
            kill = False
        line = next(said, None)
        if line is None or line[0] == "ended":
            assert line is None or line[1] == -signal.SIGKILL
            return
        witness.hears(*line)
        heard += 1


def reopen_and_compare(scenario: Scenario, address: str, mirror: Mirror, witness: Witness, chance: random.Random) -> None:
    study = scenario.study(address)
    mirror.follow(address)
    same(study, mirror.study)
    witness.testifies(study, mirror)
    wanted = chance.choice(scenario.batches)
    try:
        study.ask(wanted)
    except (NotReady, Exhausted) as reason:
        with pytest.raises(type(reason)):
            mirror.study.ask(wanted)
    study.close()
    mirror.follow(address)  # asks as well, and compares
    assert [trial.id for trial in mirror.study.pending] == [trial.id for trial in study.pending]
    assert len(mirror.study.history()["id"]) == len(study.history()["id"])


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_again_and_again(name: str, address: str, nursery: subprocess.Popen[str]) -> None:
    scenario = SCENARIOS[name]
    chance = random.Random(f"{name} {SEED}")
    mirror, witness = Mirror(scenario), Witness()
    for life in range(scenario.kills):
        by_itself, at_once = life % 3 == 0, life % 3 == 2
        print(
            json.dumps([name, address, chance.randrange(2**31), chance.randrange(2, 120) if by_itself else 0]),
            file=nursery.stdin,
            flush=True,
        )
        most = scenario.acknowledged
        listen(lines(nursery.stdout), not by_itself, 0 if at_once else chance.randrange(most // 3, most), chance, witness)
        reopen_and_compare(scenario, address, mirror, witness, chance)
    assert mirror.study.evaluations > 0


def test_interpreters_killed(tmp_path: Path) -> None:
    """The same with interpreters that start from nothing."""
    scenario, address = SCENARIOS["random"], f"sqlite:///{tmp_path}/study.db"
    chance = random.Random(SEED)
    mirror, witness = Mirror(scenario), Witness()
    processes = [start("begin_when_told", "random", address, life, 0) for life in range(REAL_STARTS)]  # importing meanwhile
    for life, process in enumerate(processes):
        print("go", file=process.stdin, flush=True)
        listen(lines(process.stdout), True, 10 * life + 5, chance, witness)
        assert process.wait() == -signal.SIGKILL
        reopen_and_compare(scenario, address, mirror, witness, chance)
