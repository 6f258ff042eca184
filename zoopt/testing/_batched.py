"""Contracts about run dimensions: no host synchronisation, fixed shapes, and runs that do not know of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from zoopt.feedback import Observations
from zoopt.loop import select
from zoopt.random import Random
from zoopt.strategy import State, Task
from zoopt.testing._cases import Case, case_for
from zoopt.testing._contract import ContractDoesNotApply, Factory, contract, require
from zoopt.testing._session import Calls


def _batched_case(factory: Factory) -> Case:
    recipe = factory()
    if not recipe.capabilities.batched:
        raise ContractDoesNotApply("it is not written over leading run dimensions.")
    return case_for(recipe, "box")


@contract
def runs_on_the_meta_device(factory: Factory, seed: int) -> None:
    """A batched strategy works on torch's meta device, which has shapes but no numbers: it never waits for the host.

    Shapes and types of its state stay what they are from one generation to the next, and lead with the run dimensions.
    """
    _batched_case(factory)
    for name, runs, dtype in (("box", (3,), torch.float64), ("mixed", (3,), torch.float64), ("box", (2, 3), torch.float32)):
        case = case_for(factory(), name, "integers", "box")
        _works_on_meta(factory, replace(case.task, runs=runs, device=torch.device("meta"), dtype=dtype), seed)


def _works_on_meta(factory: Factory, task: Task, seed: int) -> None:
    calls = Calls(factory(), task, seed)
    runs, space, meta = task.runs, task.space, task.device
    shapes: dict[str, Any] | None = None
    for turn in range(4):
        candidates = calls.ask()
        lead = candidates.x.shape[:-1]
        calls.observe(
            Observations(
                range(lead[-1]),
                candidates.x if space.box else space.repair(candidates.x, Random(seed, turn)),
                torch.empty((*lead, len(task.objectives)), dtype=task.dtype, device=meta),
                ok=torch.empty(lead, dtype=torch.bool, device=meta),
                columns=candidates.columns,
                dtype=task.dtype,
                device=meta,
            )
        )
        now = _shapes(calls.state)
        wrong = [f"{name} {shape}" for name, (shape, _) in now.items() if shape and shape[: len(runs)] != runs]
        require(not wrong, f"with runs={runs}, the state holds {', '.join(wrong)}: every tensor must lead with the runs.")
        require(shapes in (None, now), f"shapes or types of the state changed between generations: {shapes} and {now}.")
        shapes = now
    done = calls.recipe.done(task, calls.state)
    fits = done is None or (done.shape == runs and done.dtype == torch.bool)
    require(fits, f"done() gave {done}; expected a bool tensor of shape {runs}.")
    x = calls.recipe.recommend(task, calls.state)
    fits = x is None or x.shape == (*runs, task.dim)
    require(fits, f"recommend() gave {x}; expected a tensor of shape {(*runs, task.dim)}.")


def _shapes(state: State, path: str = "") -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every tensor of a state, by path; numbers on the host are no tensors."""
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for f in fields(state):
        value, name = getattr(state, f.name), f"{path}{f.name}"
        if isinstance(value, Tensor):
            found[name] = tuple(value.shape), value.dtype
        elif isinstance(value, State):
            found |= _shapes(value, f"{name}.")
        elif isinstance(value, Mapping):
            found |= {f"{name}[{k!r}]": (tuple(v.shape), v.dtype) for k, v in value.items() if isinstance(v, Tensor)}
    return found


@contract
def runs_without_synchronising_cuda(factory: Factory, seed: int) -> None:
    """A batched strategy works on a CUDA device while torch refuses every synchronisation with it."""
    case = _batched_case(factory)
    if not torch.cuda.is_available():
        raise ContractDoesNotApply("there is no CUDA device on this machine.")
    task = replace(case.task, runs=(3,), device=torch.device("cuda"))
    calls = Calls(factory(), task, seed)
    try:
        for turn in range(4):
            candidates = calls.ask()
            values = (candidates.x**2).sum(-1, keepdim=True)
            calls.observe(
                Observations(
                    range(candidates.x.shape[-2]),
                    candidates.x,
                    values,
                    ok=torch.isfinite(values[..., 0]),
                    columns=candidates.columns,
                    dtype=task.dtype,
                    device=task.device,
                )
            )
            calls.recipe.done(task, calls.state)
            if turn == 0:  # constants have reached the device now
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contract
def a_run_does_not_know_the_others(factory: Factory, seed: int) -> None:
    """Run m alone asks what run m of many asks, and goes on so when finished runs are dropped."""
    case = _batched_case(factory)
    task = case.task
    many = Calls(factory(), replace(task, runs=(5,)), seed)
    alone = {m: Calls(factory(), replace(task, runs=(1,)), seed, [m]) for m in (0, 2, 4)}
    here = [0, 1, 2, 3, 4]
    for turn in range(6):
        if turn == 3:  # runs 1 and 3 are over
            kept = [0, 2, 4]
            many.state = select(many.state, torch.tensor(kept))
            many.task, many.labels, here = replace(task, runs=(3,)), kept, kept
        candidates = many.ask()
        for m, calls in alone.items():
            own = calls.ask()
            ours, theirs = own.x[0], candidates.x[here.index(m)]
            require(ours.shape == theirs.shape, f"turn {turn}: run {m} alone asks {len(ours)} points, among others {len(theirs)}.")
            gap = float((ours - theirs).abs().max())
            require(
                torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9),
                f"turn {turn}: what run {m} asks alone and among {len(here)} runs differs by {gap:.3g}.",
            )
            calls.tell(case, own)
        many.tell(case, candidates)
