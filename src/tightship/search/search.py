"""The search: what is tried in which order, and how one is chosen.

baseline -> free candidates -> other settings of each engine -> compression -> quality tests of what pays
         -> repair of what fails on quality alone -> a race of the best
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tightship.core.budget import Budget
from tightship.core.measurement import Measurement
from tightship.core.plan import SOURCE, Candidate, Sensitivity
from tightship.core.recipe import Recipe
from tightship.errors import TightshipError
from tightship.search import candidates, judge
from tightship.search.attempt import attempt_all
from tightship.search.candidates import Proposal
from tightship.search.quality import Examiner
from tightship.search.repair import MAX_REPAIRS, repair
from tightship.search.sensitivity import sensitivity
from tightship.search.trial import Trial
from tightship.search.workshop import Workshop

__all__ = ["Outcome", "propose", "search"]

N_RACERS = 3
SENSITIVITY_SECONDS = 20.0


@dataclass(frozen=True)
class Outcome:
    """All trials with their verdicts, which one is chosen, the sensitivity of its operators where measured, and notes
    for the reader.
    """

    trials: tuple[Trial, ...]
    chosen: Trial
    sensitivity: tuple[Sensitivity, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The trials as the plan records them, the front marked."""
        records = [trial.candidate for trial in self.trials]
        front = judge.pareto_front(records)
        return tuple(replace(record, on_front=record.name in front) for record in records)


def propose(workshop: Workshop, allowed: Sequence[str], threads: int) -> tuple[Proposal, ...]:
    """List what would be tried without measuring anything; settings and repairs depend on measurements."""
    wanted = candidates.targets(allowed, threads)
    model = workshop.build(candidates.SIMPLIFIED).read()
    engines_once = tuple({target.engine: target for target in reversed(wanted)}.values())
    lossy = candidates.compressed(model, engines_once, workshop.calibration is not None)
    return (*candidates.free(wanted), *lossy)


def search(
    workshop: Workshop, budget: Budget, allowed: Sequence[str] = (), threads: int = 0, recipe: Recipe | None = None
) -> Outcome:
    """Try candidates and choose one; the source itself is chosen where nothing better is proven.

    `allowed` names engines (empty: all that are installed), `threads` 0 leaves their number open, `recipe` is tried
    instead of the search's own candidates.
    """
    source = _measure_source(workshop)
    if recipe is not None:
        trials = attempt_all(workshop, _given(recipe, allowed, threads), budget, source, "building and timing")
    else:
        trials = _explore(workshop, budget, source, allowed, threads)
    examiner = Examiner(workshop, budget, _family_size(trials, repairs=recipe is None))
    source, trials = examiner.with_quality(source), examiner.judge(trials)
    found: tuple[Sensitivity, ...] = ()
    if recipe is None:
        trials, found = repair(workshop, examiner, budget, source, trials)
    return _choose(workshop, examiner, budget, source, trials, found)


def _measure_source(workshop: Workshop) -> Trial:
    source = workshop.source
    memory = workshop.peak_memory(None, source.target)
    measured = Measurement(source.artifact.size_bytes, workshop.time_source(), peak_memory_bytes=memory)
    return Trial(Proposal(Recipe(), source.target), SOURCE, None, measured, "baseline", "the model as it was given")


def _explore(
    workshop: Workshop, budget: Budget, source: Trial, allowed: Sequence[str], threads: int
) -> tuple[Trial, ...]:
    model = workshop.build(candidates.SIMPLIFIED).read()
    free = candidates.free(candidates.targets(allowed, threads))
    trials = attempt_all(workshop, free, budget, source, "trying engines")
    others = [
        Proposal(candidates.SIMPLIFIED, target)
        for trial in _fastest_of_each_engine(trials)
        for target in candidates.variants(trial.proposal.target, model, threads, trial.latency_ms)
    ]
    trials += attempt_all(workshop, others, budget, source, "trying settings")
    settings = [trial.proposal.target for trial in _fastest_of_each_engine(trials)]
    lossy = candidates.compressed(model, settings, workshop.calibration is not None)
    return trials + attempt_all(workshop, lossy, budget, source, "compressing")


def _given(recipe: Recipe, allowed: Sequence[str], threads: int) -> tuple[Proposal, ...]:
    targets = (recipe.target,) if recipe.target is not None else candidates.targets(allowed, threads)
    return tuple(Proposal(Recipe(recipe.passes), target) for target in targets)


def _fastest_of_each_engine(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    fastest: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.time_ratio):
        if trial.measured is not None:
            fastest.setdefault(trial.proposal.target.engine, trial)
    return tuple(fastest.values())


def _family_size(trials: Sequence[Trial], repairs: bool) -> int:
    tested = sum(trial.status == "untested" and not trial.proposal.lossless for trial in trials)
    return tested + MAX_REPAIRS * (repairs and tested > 0)


def _choose(
    workshop: Workshop,
    examiner: Examiner,
    budget: Budget,
    source: Trial,
    trials: Sequence[Trial],
    found: tuple[Sensitivity, ...],
) -> Outcome:
    raced = _race(workshop, budget, source, trials)
    ranked = judge.rank([trial.candidate for trial in raced if trial.status == "accepted"], budget)
    if not ranked:
        return Outcome((source, *raced), source, found)
    best = next(trial for trial in raced if trial.name == ranked[0].name)
    memory = workshop.peak_memory(best.built, best.proposal.target)
    chosen = examiner.with_quality(best).judged("chosen", best.reason, peak_memory_bytes=memory)
    everything = (source, *(chosen if trial is best else trial for trial in raced))
    try:
        return Outcome(everything, chosen, _sensitivity_of(workshop, chosen) or found)
    except TightshipError as error:  # the choice stands without it; a run of hours must not end here
        return Outcome(everything, chosen, found, (f"The sensitivity of operators was not measured: {error}",))


def _race(workshop: Workshop, budget: Budget, source: Trial, trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Time the best accepted candidates once more, all in one run, and drop those that do not pay after all."""
    ranked = judge.rank([trial.candidate for trial in trials if trial.status == "accepted"], budget)
    names = [candidate.name for candidate in ranked[:N_RACERS]]
    racers = {trial.name: trial for trial in trials if trial.name in names and trial.built is not None}
    timings = workshop.race([(trial.built, trial.proposal.target) for trial in racers.values() if trial.built])
    again = dict(zip(racers, timings, strict=True))
    result = []
    for trial in trials:
        if trial.name in again:
            timing = again[trial.name]
            trial = trial.judged(trial.status, trial.reason, latency=timing.latency, ratio=timing.ratio)
            refusal = judge.not_worth_it(trial.known, source.known, budget)
            trial = trial.judged("refused", f"in the last race: {refusal}") if refusal else trial
        result.append(trial)
    return tuple(result)


def _sensitivity_of(workshop: Workshop, chosen: Trial) -> tuple[Sensitivity, ...]:
    """Measure what the report shows of the chosen model, if that takes a moment and not minutes."""
    quantizer = chosen.quantizer
    if quantizer is None or chosen.built is None or workshop.calibration is None:
        return ()
    before = replace(chosen.proposal.recipe, passes=chosen.proposal.recipe.passes[:-1])
    built = workshop.build(before)
    n_operators = len(quantizer.operators(built.read()))
    seconds_each = 8 * chosen.latency_ms / 1e3 + 0.05 + built.size_bytes / 5e7
    return sensitivity(workshop, chosen) if n_operators * seconds_each < SENSITIVITY_SECONDS else ()
