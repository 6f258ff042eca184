"""Fidelities and a random environment: what they mean to a space, a study, and strategies that do not know of them."""

import json

import numpy as np
import pytest
from scipy.stats import truncnorm

from zoopt import Bool, Choice, Environment, Fidelity, Fixed, Integer, Random, Real, Space, Study, config, minimize
from zoopt.errors import ConfigError, SpaceError
from zoopt.stop import Cost, Target
from zoopt.strategies import CMAES

EPOCHS = Fidelity(Integer(1, 81, log=True))
SOURCE = Fidelity(Choice("archive", "rough", "fine"), target="fine", cost={"rough": 1, "fine": 20})
SPACE = Space({"x": Real(0, 1), "epochs": EPOCHS, "source": SOURCE})


def value(x: float, epochs: int, source: str) -> float:
    """Lower fidelities look better than they are."""
    return (x - 0.3) ** 2 + 0.01 * epochs - 1.0 * (source != "fine")


def test_costs_multiply_and_are_linear_between_what_is_named():
    x = SPACE.encode_params([{"x": 0, "epochs": e, "source": s} for e, s in ((81, "fine"), (27, "rough"), (1, "archive"))])
    np.testing.assert_allclose(SPACE.cost(x), [20.0, 27 / 81, np.inf])
    size = Space({"x": Real(0, 1), "n": Fidelity(Real(0, 10), cost={"10": 4, 0: 1, 5: 1})})
    rows = size.encode_params([{"x": 0, "n": n} for n in (0, 2.5, 5, 7.5, 10)])
    np.testing.assert_allclose(size.cost(rows), [1, 1, 1, 2.5, 4])


def test_a_fidelity_that_is_left_out_is_at_its_target():
    x = SPACE.encode_params([{"x": 0.5}, {"x": 0.5, "epochs": 80}])
    assert SPACE.params(x)[0] == {"x": 0.5, "epochs": 81, "source": "fine"}
    assert SPACE.at_target(x).tolist() == [True, False]
    flag = Space({"x": Real(0, 1), "exact": Fidelity(Bool(), target=True, cost={False: 1, True: 3})})
    assert flag.params(flag.encode_params([{"x": 0}]))[0]["exact"] is True


def test_they_go_through_a_configuration():
    law = {"w": Environment(Choice("dry", "wet"), weights={"wet": 1, "dry": 3}), "t": Environment(Real(0, 30), mean=10, sd=4)}
    space = Space({"x": Real(0, 1), "epochs": EPOCHS, "source": SOURCE, **law})
    again = Space.from_config(json.loads(json.dumps(space.to_config())))
    assert not space.difference(again)
    assert not again.difference(space)
    assert [column.role for column in again.columns] == ["", "fidelity", "fidelity", "environment", "environment"]


def test_weights_stay_what_they_are_when_read_again():
    for seed in range(50):
        law = Environment(Integer(1, 7), weights=np.random.default_rng(seed).integers(1, 99, 7))
        assert Environment(Integer(1, 7), weights=law.to_config()["weights"]) == law


def test_keys_of_a_file_are_texts():
    wet = Environment(Bool(), weights={"true": 1, "false": 3})
    assert wet.weights == (0.75, 0.25)
    assert Environment(Integer(1, 3), weights={"1": 1, "3": 1}).weights == (0.5, 0, 0.5)
    exact = Fidelity(Bool(), target=True, cost={"false": 1, "true": 3})
    assert exact.cost == {False: 1.0, True: 3.0}


def test_the_environment_follows_its_law():
    space = Space(
        {
            "x": Real(0, 1),
            "u": Environment(Real(1, 100, log=True)),
            "n": Environment(Real(-1, 3), mean=0, sd=2),
            "k": Environment(Integer(1, 3), weights=[1, 0, 3]),
            "z": Environment(Real(), mean=5, sd=2),
        }
    )
    columns, values = space.scenarios(Random(0).uniform((4000, 4)).numpy())
    x = np.tile(space.start, (4000, 1))
    x[:, columns] = values
    z = space.decode_numpy(x)[:, columns]
    assert np.mean(z[:, 0] < 10) == pytest.approx(0.5, abs=0.03)  # uniform in the logarithm
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(z[:, 1], q) == pytest.approx(truncnorm.ppf(q, -0.5, 1.5, loc=0, scale=2), abs=0.1)
    assert [float(np.mean(z[:, 2] == k)) for k in (1, 2, 3)] == pytest.approx([0.25, 0, 0.75], abs=0.03)
    assert (z[:, 3].mean(), z[:, 3].std()) == (pytest.approx(5, abs=0.15), pytest.approx(2, abs=0.1))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Fidelity(Choice("a", "b")), "needs its target"),
        (lambda: Fidelity(Choice("a", "b"), target="b"), "needs its cost by value"),
        (lambda: Fidelity(Choice("a", "b"), target="c", cost={"a": 1}), "target must be one of"),
        (lambda: Fidelity(Choice("a", "b"), target="b", cost={"a": 1}), "says nothing of the target"),
        (lambda: Fidelity(Choice("a", "b"), target="b", cost={"a": 0, "b": 1}), "above 0"),
        (lambda: Fidelity(Real(0, 1)), "needs its cost"),
        (lambda: Fidelity(Real(0, 1), cost={0: 1, 0.5: 2}), "lowest and the highest"),
        (lambda: Fidelity(Real(0, 1), cost={"much": 1}), "a value in cost"),
        (lambda: Fidelity(Real()), "has bounds"),
        (lambda: Fidelity(Real(0, 1, shape=2), cost={0: 1, 1: 2}), "without a shape"),
        (lambda: Fidelity(Fixed(1)), "Fidelity takes"),
        (lambda: Fidelity(Real(0.1, 1, when={"a": 1})), "cannot be conditional"),
        (lambda: Environment(Real(0, 1), mean=1), "both"),
        (lambda: Environment(Real(0, 1), mean=0, sd=-1), "sd > 0"),
        (lambda: Environment(Real(0, 1), mean=1e6, sd=1), "never lies"),
        (lambda: Environment(Real()), "needs mean and sd"),
        (lambda: Environment(Choice("a", "b"), mean=0, sd=1), "for numbers"),
        (lambda: Environment(Real(0, 1), weights=[1]), "weights are for"),
        (lambda: Environment(Choice("a", "b"), weights=[1]), "2 numbers"),
        (lambda: Environment(Choice("a", "b"), weights=[0, 0]), "not all 0"),
        (lambda: Environment(Choice("a", "b"), weights={"c": 1}), "weights name 'c'"),
        (lambda: Space({"e": Fidelity(Integer(1, 3))}), "nothing to choose"),
    ],
)
def test_what_cannot_be_is_refused(make, match):
    with pytest.raises(SpaceError, match=match):
        make()


def test_the_best_is_the_best_at_the_target(tmp_path):
    study = Study(SPACE, "random", seed=0, journal=tmp_path / "s.db")
    study.add({"x": 0.3, "epochs": 1}, -5.0)
    study.add({"x": 0.3, "source": "archive"}, -5.0)
    assert study.best is None
    study.add({"x": 0.1}, 2.0)
    study.add({"x": 0.2}, 1.0)
    assert study.best.params["x"] == 0.2
    trial = study.ask()
    study.tell(trial, -9.0, at={"epochs": 3})  # it was stopped early
    assert study.best.params["x"] == 0.2
    assert study.cost == pytest.approx(20 / 81 + 20 + 20 + 20 * 3 / 81)  # of what was reached; the archive was there
    study.close()
    again = Study(SPACE, "random", journal=tmp_path / "s.db")
    assert again.best.params["x"] == 0.2


def test_the_front_is_made_of_targets():
    study = Study(SPACE, "random", objectives={"a": "minimize", "b": "minimize"}, seed=0)
    study.add({"x": 0.3, "epochs": 1}, [-5.0, -5.0])
    study.add({"x": 0.3}, [1.0, 2.0])
    study.add({"x": 0.4}, [2.0, 1.0])
    assert [t.params["x"] for t in study.front] == [0.3, 0.4]


@pytest.mark.parametrize("strategy", ["random", "sobol", "cma-es", "de"])
def test_strategies_that_know_no_fidelity_ask_at_the_target(strategy):
    space = Space({"x": Real(0, 1), "y": Real(0, 1), "epochs": EPOCHS})
    study = Study(space, strategy, seed=0)
    for low in (1, 2):  # of which they must learn nothing
        study.add({"x": 0.9, "y": 0.9, "epochs": low}, -100.0)
    for _ in range(60):
        trial = study.ask()
        assert trial.params["epochs"] == 81
        study.tell(trial, (trial.params["x"] - 0.2) ** 2 + (trial.params["y"] - 0.2) ** 2)
    if strategy == "cma-es":
        assert abs(study.recommended.params["x"] - 0.2) < 0.2
    assert study.cost == pytest.approx(60 + 3 / 81)


def test_a_fidelity_may_be_given_to_ask():
    study = Study(SPACE, "random", seed=0)
    assert study.ask(context={"epochs": 9}).params["epochs"] == 9
    with pytest.raises(SpaceError, match="what can be given is epochs, source"):
        study.ask(context={"x": 0.1})


def test_other_strategies_meet_the_environment_by_its_law(tmp_path):
    space = Space({"x": Real(0, 1), "y": Real(0, 1), "w": Environment(Choice("dry", "wet"), weights=[3, 1])})
    study = Study(space, CMAES(), seed=0, journal=tmp_path / "s.db")
    met = []
    for _ in range(200):
        trial = study.ask()
        p = trial.params
        met.append(p["w"])
        study.tell(trial, (p["x"] - (0.2 if p["w"] == "dry" else 0.6)) ** 2 + (p["y"] - 0.5) ** 2)
    assert 110 < met.count("dry") < 180
    assert study.best.value is None  # single values mean little
    assert abs(study.best.params["x"] - 0.3) < 0.15  # the mean over the law
    study.close()
    again = Study(space, CMAES(), journal=tmp_path / "s.db")
    straight = Study(space, CMAES(), seed=0)
    for _ in met:
        trial = straight.ask()
        p = trial.params
        straight.tell(trial, (p["x"] - (0.2 if p["w"] == "dry" else 0.6)) ** 2 + (p["y"] - 0.5) ** 2)
    assert again.ask().params == straight.ask().params
    with pytest.raises(ConfigError, match="single environments"):
        Study(space, CMAES(), stop=Target(0.1))


def test_a_study_stops_when_it_has_cost_enough():
    study = Study(SPACE, "random", seed=0, stop=Cost(100))
    study.run(value, parallel=1)
    assert study.evaluations == 5
    assert study.status.reason == "cost"
    with pytest.raises(ConfigError, match="history='all'"):
        Study(SPACE, "random", stop=Cost(3), history="values")
    with pytest.raises(ConfigError, match="this one has none"):
        Study({"x": Real(0, 1)}, stop=Cost(3))


def test_they_are_written_in_a_study_file(tmp_path):
    (tmp_path / "work.py").write_text("def f(x, epochs, w):\n    return (x - 0.3) ** 2 + 1 / epochs + w\n")
    file = tmp_path / "study.toml"
    file.write_text(
        """
[study]
strategy = "random"
seed = 0
[stop]
cost = 3
[objective]
python = "work:f"
[space]
x = { type = "real", low = 0, high = 1 }
epochs = { type = "fidelity", variable = { type = "integer", low = 1, high = 10 }, cost = { 1 = 1, 10 = 1.5 } }
w = { type = "environment", variable = { type = "real", low = 0, high = 1 }, mean = 0.5, sd = 0.2 }
"""
    )
    made = config.load(file)
    made.check()
    assert made.space.targets == {1: made.space.start[1]}
    file.write_text(file.read_text().replace("cost = { 1 = 1", "cost = { 2 = 1"))
    with pytest.raises(ConfigError, match="lowest and the highest"):
        config.load(file)


def test_minimize_refuses_them():
    with pytest.raises(ConfigError, match="epochs is a fidelity"):
        minimize(lambda x: x.sum(-1), "random", space=Space({"x": Real(0, 1), "epochs": EPOCHS}), evaluations=5)
