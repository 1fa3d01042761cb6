"""The phases of a run: steps, checkpoints, and a watch over the losses."""

import json
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from gim_audio.checkpoints.folders import load_model
from gim_audio.config import Config
from gim_audio.devices import give_back_freed_memory, peak_bytes, read_later
from gim_audio.files import write_text
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.packed import Crops, PackedCorpus
from gim_audio.training.balance import measure
from gim_audio.training.cache import Cache, CachedFeed, build
from gim_audio.training.checkpointer import Checkpointer
from gim_audio.training.cuda_graph import GraphedStep
from gim_audio.training.distribution import Batches, Distribution
from gim_audio.training.growth import begin_as_below, begin_with, graft
from gim_audio.training.health import LossWatch, check_weights, diagnose
from gim_audio.training.inputs import Inputs
from gim_audio.training.interrupts import Interrupts
from gim_audio.training.labels import Targets, labels_fingerprint
from gim_audio.training.metrics_log import Metrics, line_of, note_start, open_lines, read_accuracies
from gim_audio.training.optimizers import AdamW, moments, one_for_each
from gim_audio.training.position import (
    Position,
    check_corpus,
    check_decay,
    check_labels,
    check_same,
)
from gim_audio.training.report import Launched, StepReport
from gim_audio.training.residency import Residency
from gim_audio.training.schedule import Phase, phases
from gim_audio.training.step import Step, type_of_products

__all__ = ["Trainer"]


@dataclass
class Trainer:
    """A run of an experiment; `train` says more.

    Attributes:
        config: The configuration, with numbers where it said `auto`.
        corpus: The corpus that crops are drawn from.
        model: The model, on the CPU.
        device: The device that trains.
        checkpointer: The checkpoints of the experiment.
        distribution: The part of the run that this process has.
        interrupts: The signals that ask for a checkpoint or an end.
        say: A function that takes a line for the user.
        progress: A function that takes the numbers of steps done and planned, and a step's metrics.
        position: The position of the run.
        schedule: The phases of the run.
        optimizers: The optimizers of the modules that learn now, by number from 1.
    """

    config: Config
    corpus: PackedCorpus
    model: GreedyInfoMax
    device: torch.device
    checkpointer: Checkpointer
    distribution: Distribution
    interrupts: Interrupts
    say: Callable[[str], None]
    progress: Callable[[int, int, Metrics], None]
    position: Position = field(init=False)
    schedule: list[Phase] = field(init=False)
    optimizers: dict[int, AdamW] = field(init=False, default_factory=dict)
    _span: tuple[int, int] = field(init=False)
    _finished: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        config = self.config
        shared = self.distribution.count if config.training.parallel == "data" else 1
        self.crops = Crops(
            self.corpus,
            crop=config.data.crop,
            hop=config.model.hop,
            batch=config.training.batch * shared,
            seed=config.training.seed,
        )
        self.watch = LossWatch([module.objective.chance for module in self.model.stack])
        self.experiment = self.checkpointer.experiment
        self.residency = Residency(self.model, self.experiment, self.device)
        self.inputs = Inputs(config, self.crops, self.model, self.device)
        if not self.distribution.writes:
            self.say = lambda line: None

    def plan(self, base: Path | None, init: Path | None) -> None:
        """Plan a run from the beginning. Nothing is written yet."""
        if self.config.data.short == "refuse":
            self.crops.refuse_to_waste()
        updates = [0] * len(self.model.stack)
        self.position = Position(self.corpus.fingerprint, self.crops.batch, updates=updates)
        self.position.labels = labels_fingerprint(self.config.objectives, self.corpus)
        if base is not None:
            self.position.trained = graft(self.config, self.model, base)
        if init is not None:
            new = begin_with(self.config, self.model, init)
            added = f"; the prediction heads of modules {', '.join(map(str, new))} are new"
            self.say(f"beginning with the weights of {init}{added if new else ''}")
        self.schedule = phases(self.config, self.crops.batch, self.position.trained)
        self.distribution.check(self.schedule)
        self.position.recent_losses = self.watch.recent

    def start(self, base: Path | None, init: Path | None) -> None:
        """Start the run as planned."""
        if self.distribution.writes:
            self.checkpointer.save(self.model.state_dict(), {}, self.position)
        self._note(grown_from=base, begun_with=init)

    def resume(self, position: Position) -> None:
        """Continue from the last checkpoint.

        Raises:
            CheckpointError: The experiment was trained with other settings.
            DataError: It was trained on another corpus, or with other labels.
        """
        check_same(self.experiment, self.config)
        self.position = position
        check_corpus(self.experiment, position, self.crops)
        labels = labels_fingerprint(self.config.objectives, self.corpus)
        check_labels(self.experiment, position, self.corpus, self.config.objectives, labels)
        position.labels = labels  # a checkpoint of an older version had none
        check_decay(self.experiment, self.config, position)
        self.schedule = phases(self.config, self.crops.batch, position.trained)
        self.distribution.check(self.schedule)
        self.watch.recent = position.recent_losses
        self.model.load_state_dict(load_model(self.experiment)[1].state_dict())
        self.say(f"resuming {self.experiment} from step {position.step}")
        last = self.schedule[-1]
        if position.phase < last.number or not self._over(last, self._history()):
            self._note()

    def _note(self, **origins: Path | None) -> None:
        """Write where the run comes from."""
        if self.crops.left_out:
            self.say(f"left out of training: {self.crops.left_out}; {self.crops.advice()}")
        if self.distribution.writes:
            write_text(self.experiment / "config.yaml", self.config.to_yaml())
            known = {key: str(path) for key, path in origins.items() if path}
            note_start(self.experiment / "provenance.json", self.position.step, **known)
        self.distribution.wait()

    def run(self) -> None:
        """Run all phases that are left."""
        for phase in self.schedule[self.position.phase - 1 :]:
            if phase.number > self.position.phase:
                self.position.phase, self.position.phase_step = phase.number, 0
                self.distribution.wait()  # until what the last phase learnt can be read
            if not self._over(phase, self._history()):
                self._run(phase)
        if self.distribution.writes:
            shutil.rmtree(self.experiment / "cache", ignore_errors=True)

    def _run(self, phase: Phase) -> None:
        self.residency.load(phase.last)
        if phase.warm_start and self.position.phase_step == 0:
            begin_as_below(self.model, phase.modules)
        batches, targets, step = self._prepare(phase)
        history, position = self._history(), self.position
        path = self.experiment / "metrics.jsonl"
        behind, waiting = self._behind(phase), deque[Launched]()
        with open_lines(path, position.step) if self.distribution.writes else nullcontext() as log:
            while not self._over(phase, history):
                with self.checkpointer.naming_the_last():
                    newest = self._launch(phase, batches, targets, step)
                    waiting.append(newest)
                    due = position.phase_step % self.config.training.checkpoint_every == 0
                    due = due or position.phase_step == phase.steps
                    asked, save, stop = newest.report.save or newest.report.stop, False, False
                    del newest  # its output need not wait for the next one
                    while len(waiting) > (0 if due or asked else behind):
                        report = self._finish(phase, waiting.popleft(), log)
                        save, stop = report.save, report.stop
                        accuracies = [report.accuracy[module - 1] for module in phase.modules]
                        history.append([math.nan if a is None else a for a in accuracies])
                    over = self._over(phase, history)
                    if due or save or stop or over:
                        self._save(say=save or stop, over=over)
                if save:
                    self.interrupts.save = False
                if stop:
                    self.interrupts.leave()
        self.distribution.finish()

    def _behind(self, phase: Phase) -> int:
        """Return how many steps are launched before the metrics of one are read.

        A GPU need not wait, unless processes share a report or the phase may stop.
        """
        alone = self.distribution.count == 1 and phase.stop is None
        return 1 if alone and self.device.type == "cuda" else 0

    def _history(self) -> deque[list[float]]:
        """Return as much of the accuracies of the phase's modules as its stop rule looks at."""
        phase = self.schedule[self.position.phase - 1]
        if phase.stop is None:
            return deque(maxlen=0)
        path, step = self.experiment / "metrics.jsonl", self.position.step
        recent = read_accuracies(path, step, phase.number, phase.modules)
        return deque(recent, maxlen=2 * phase.stop.over)

    def _over(self, phase: Phase, history: Sequence[Sequence[float]]) -> bool:
        return self.position.phase_step >= phase.steps or phase.stands_still(history)

    def _prepare(self, phase: Phase) -> tuple[Batches, Targets, Step | GraphedStep]:
        """Return the input of the modules of a phase, their targets and their step."""
        self.optimizers = {}  # of the phase before, whose memory this one may need
        self.model.zero_grad(set_to_none=True)
        give_back_freed_memory()
        part = self.distribution.part(self.crops.batch)
        batches = self.inputs.waveforms(phase.modules, part)
        if phase.cache:
            batches = CachedFeed(self._cache(phase), self.device, part)
        targets = self._targets(phase, part)

        def costs() -> list[float]:
            self.residency.place(phase.first, phase.last)
            return measure(self.model, phase, self.config, batches(0), targets(0))

        self._span = first, last = self.distribution.begin(phase, costs, self.say)
        self.residency.place(first, last)
        self.residency.drop_all_but(first, last)
        rates = zip(phase.modules, phase.learning_rates, strict=True)
        learning = {module: rate for module, rate in rates if first <= module <= last}
        decay, average = self.config.training.weight_decay, self.config.training.average
        self.optimizers = one_for_each(self.model.stack, learning, decay, average)
        if self.position.phase_step:
            self.checkpointer.restore(self.optimizers, set(phase.modules))
        step = Step(
            self.model,
            self.optimizers,
            seed=self.config.training.seed,
            dtype=type_of_products(self.config),
            first=first,
            last=last,
            apply=self.distribution.apply_gradients,
            ranks=self.distribution.ranks,
            salt=self.distribution.salt,
            paired=self.inputs.paired(phase.modules),
        )
        alone = self.device.type == "cuda" and self.distribution.count == 1
        if alone and self.config.training.cuda_graph == "auto":
            return batches, targets, GraphedStep(step, self.say)
        return batches, targets, step

    def _targets(self, phase: Phase, part: slice) -> Targets:
        """Return what the modules of a phase are taught; units are learnt when it begins."""
        units = self.checkpointer.units
        if self.distribution.writes:
            self.residency.place(1, phase.last)
            with self.checkpointer.naming_the_last():
                units.learn(phase.modules, self.model, self.corpus, self.say)
        self.distribution.wait()
        return self.inputs.targets(phase.modules, part, units)

    def _cache(self, phase: Phase) -> Cache:
        """Return the cache of the phase's first module, made from that of an earlier phase."""
        caches = self.inputs.caches(self.experiment / "cache", self.schedule, phase)
        if self.distribution.writes:
            check = self.interrupts.leave_if_asked
            with self.checkpointer.naming_the_last():
                build(caches, self.inputs.samples, self.residency.place, self.say, check)
        self.distribution.wait()
        return caches[-1]

    def _launch(
        self, phase: Phase, batches: Batches, targets: Targets, step: Step | GraphedStep
    ) -> Launched:
        """Launch a step, which a GPU need not have finished then."""
        started, position = time.perf_counter(), self.position
        for module, rate in zip(phase.modules, phase.learning_rates, strict=True):
            if module in self.optimizers:
                now = rate * phase.factor(position.phase_step)
                self.optimizers[module].learning_rate = now
        index = max(position.updates[module - 1] for module in phase.modules)
        last = position.phase_step + 1 == phase.steps
        given = self.distribution.receive(batches, index, last)
        made = step(given, index, targets(index))
        position.step, position.phase_step = position.step + 1, position.phase_step + 1
        for module in phase.modules:
            position.updates[module - 1] += 1
        save, stop = self.interrupts.save, self.interrupts.stop is not None
        report = StepReport.of(len(self.model.stack), save=save, stop=stop)
        read = read_later(torch.cat([made.losses, made.accuracies]))
        if position.step % self.config.training.diagnose_every == 0:
            for module, dead, rank in diagnose(self.model, given, *self._span):
                report.dead_units[module - 1] = dead
                report.effective_rank[module - 1] = None if math.isnan(rank) else rank
        return Launched(position.step, position.phase_step, made.output, report, read, started)

    def _finish(self, phase: Phase, launched: Launched, log: TextIO | None) -> StepReport:
        """Wait for a step, write its metrics, and return the report of all processes."""
        report, numbers, learning = launched.report, launched.read(), len(self.optimizers)
        losses, accuracies = numbers[:learning], numbers[learning:]
        for module, loss, accuracy in zip(self.optimizers, losses, accuracies, strict=True):
            report.loss[module - 1], report.accuracy[module - 1] = loss, accuracy
        report = self.distribution.share_report(launched.output, report)
        for module in phase.modules:
            if module <= self._span[1]:  # the others are other processes'
                value = report.loss[module - 1]
                self.watch.check(module, launched.number, math.nan if value is None else value)
        if log is not None:
            self._write(phase, launched, report, log)
        return report

    def _write(self, phase: Phase, launched: Launched, report: StepReport, log: TextIO) -> None:
        """Write a line of metrics; modules that did not learn have none."""
        now = time.perf_counter()
        seconds = round(now - max(launched.started, self._finished), 4)
        self._finished = now
        diagnosed = launched.number % self.config.training.diagnose_every == 0
        peak = peak_bytes(self.device) if diagnosed else None
        metrics = line_of(launched.number, phase.number, report, seconds, peak)
        log.write(json.dumps(metrics) + "\n")
        before = sum(earlier.steps for earlier in self.schedule[: phase.number - 1])
        self.progress(before + launched.phase_step, sum(p.steps for p in self.schedule), metrics)

    def _save(self, *, say: bool, over: bool) -> None:
        """Write a checkpoint; at the end of a phase, with running means of the weights."""
        for module, optimizer in self.optimizers.items():
            if over:
                optimizer.use_average()
            weights = self.model.stack[module - 1].parameters()
            check_weights(module, self.position.step, weights)
        found = self.distribution.collect(self.residency.here() | moments(self.optimizers))
        if self.distribution.writes:
            self._write_checkpoint(found, say=say)
        self.distribution.wait()  # to write and to measure may take long

    def _write_checkpoint(self, found: dict[str, Tensor], *, say: bool) -> None:
        names = self.model.state_dict().keys()
        weights = {name: found.pop(name) for name in names & found.keys()}
        self.position.recent_losses = self.watch.recent
        folder = self.checkpointer.save(self.residency.complete(weights), found, self.position)
        if say:
            self.say(f"saved {folder}: --resume goes on from there")
