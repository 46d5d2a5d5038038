"""All tuners by name: a searcher and a scheduler of raytune-hpo, or a peer in their places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from benchmarks.quality.ours import search_space
from benchmarks.quality.tuners import parse
from raytune_hpo.objective import Objective
from raytune_hpo.plugins import auto_searcher, make_scheduler, make_searcher, settings_of
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.trial import Config

from .tasks import Point, Task

OBJECTIVE = Objective.of("value")


@dataclass(frozen=True)
class Setting:
    """What a tuner is told before it begins."""

    task: Task
    workers: int
    seed: int


@dataclass(frozen=True)
class Tuner:
    """The two parts that the engine asks.

    Attributes:
        job: Makes the reports of a job with a config; None for all there are.
        late: The searcher is asked after the scheduler, never ahead; for peers that are both.
    """

    searcher: Searcher
    scheduler: Scheduler
    job: Callable[[Config], list[Point]] | None = None
    late: bool = False


_PEERS = {
    "dehb": "dehb_peer:dehb",
    "ray-asha": "ray_peers:asha",
    "ray-hyperband": "ray_peers:hyperband",
    "syne-asha": "syne_peers:asha",
    "syne-asha-bore": "syne_peers:asha_bore",
    "syne-bohb": "syne_peers:bohb",
}
"""Modules of this folder, imported when a run needs them: not every peer is installed."""


def make_tuner(name: str, setting: Setting) -> Tuner:
    """Return a new tuner.

    Args:
        name: ``SCHEDULER+SEARCHER``, each perhaps with settings and a label, such as
            ``asha?form=promote&reduction_factor=4+bohb@before``; or a peer, perhaps ``+SEARCHER``
            when it is one of Ray's.
        setting: What it is made for.
    """
    first, _, second = name.partition("+")
    plain, settings = parse(first)
    if plain in _PEERS:
        module, _, attribute = _PEERS[plain].partition(":")
        factory: Callable[..., Tuner] = getattr(import_module(f".{module}", __package__), attribute)
        if second:
            settings = {**settings, "searcher": _searcher(second, plain, setting)}
        return factory(setting, **settings)
    known = settings_of("schedulers", plain) or {}
    space = search_space(setting.task.space)
    scheduler = make_scheduler(
        plain, space, OBJECTIVE, setting.seed, {**_resource(setting.task, set(known)), **settings}
    )
    # Where nothing is ever stopped, jobs need not report on their way.
    job = setting.task.full_job if plain == "none" else None
    return Tuner(_searcher(second, plain, setting), scheduler, job)


def _searcher(name: str, scheduler: str, setting: Setting) -> Searcher:
    plain, settings = parse(name)
    space = search_space(setting.task.space)
    if plain == "auto":
        plain, _ = auto_searcher(space, OBJECTIVE, None, scheduler)
    return make_searcher(plain, space, OBJECTIVE, setting.seed, settings)


def _resource(task: Task, known: set[str]) -> dict[str, object]:
    """Return the settings that say what a job uses and how much it may."""
    settings = {"resource": "used", "min_resource": task.first, "max_resource": task.full}
    return {name: value for name, value in settings.items() if name in known}
