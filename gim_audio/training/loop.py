"""A run: phases of steps, with checkpoints, a watch over the losses, and a way to go on from each of them."""

import json
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from gim_audio.checkpoints.folders import load_model, newest, resolve
from gim_audio.config import Config, ModelConfig, load
from gim_audio.devices import (
    decide_precision,
    give_back_freed_memory,
    peak_bytes,
    pick_device,
    rounding_to_tf32,
    send,
)
from gim_audio.errors import CheckpointError, ConfigError, DataError, GimAudioError, is_out_of_memory
from gim_audio.files import LOCKS, absent, lock, replace_link, write_text
from gim_audio.model.build import build_model
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.packed import Crops, PackedCorpus
from gim_audio.training.adam import Adam
from gim_audio.training.balance import measure
from gim_audio.training.cache import Cache, CachedFeed, build
from gim_audio.training.feed import Feed
from gim_audio.training.growth import begin_as_below, begin_with, graft
from gim_audio.training.health import LossWatch, check_weights, diagnose
from gim_audio.training.interrupts import Interrupts
from gim_audio.training.journal import Metrics, note_start, open_lines, read_lines
from gim_audio.training.labels import counted, labels_fingerprint, labels_for
from gim_audio.training.parallel import REPORT_ROWS, Alone, join
from gim_audio.training.residency import Residency
from gim_audio.training.schedule import Phase, phases
from gim_audio.training.state import Position, check_decay, check_same, load_position, moments, prune, restore, save
from gim_audio.training.step import Step
from gim_audio.training.validation import validate

__all__ = ["train"]


MOST_UNUSED = 0.5
"""Share of the audio that may be left out unless somebody asks for more."""


def train(
    config: Config,
    corpus: PackedCorpus,
    experiment: Path | str,
    *,
    resume: bool = False,
    base: Path | str | None = None,
    init: Path | str | None = None,
    valid: PackedCorpus | None = None,
    keep: int | None = None,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int, Metrics], None] = lambda done, total, metrics: None,
) -> int:
    """Train modules by their own losses, in the phases of the schedule; everything goes to `experiment`.

    Args:
        config: The configuration of the experiment; `auto` standardisation is measured on the corpus.
        corpus: The corpus that crops are drawn from.
        experiment: a new folder, or with `resume` the one to go on with.
        resume: go on from the latest checkpoint, to the same weights as a run that never stopped.
        base: an experiment whose modules this model begins with; they stay as they are.
        init: A model whose weights this model begins with; they learn on. Its standardisation is taken too, unless the
            configuration measures it (`auto`).
        valid: measure InfoNCE on it at each checkpoint, and point `best` at the best one.
        keep: this many checkpoints, beside the untrained and the best.
        say: takes a line for the user.
        progress: takes how many steps are done and of how many, and the step's metrics.

    Returns:
        The number of steps that were made.

    Raises:
        GimAudioError: `experiment` exists, was trained with another configuration or corpus or is in use, a loss
            diverged, or another process of the run is gone.
        KeyboardInterrupt: after Ctrl-C, when a checkpoint is written.
        SystemExit: after SIGTERM, likewise.
    """
    experiment, base, init = Path(experiment), _path(base), _path(init)
    if base is not None and init is not None:
        raise ConfigError("--from and --init: a stack either grows on another or begins with its weights")
    for other in (corpus, valid):
        if other is not None and other.rate != config.model.rate:
            raise DataError(f"{other.path}: packed at {other.rate} Hz, the model wants {config.model.rate} Hz")
    device, given = pick_device(config.training.device), config.model
    begun = experiment if resume and newest(experiment) else None
    position = load_position(experiment) if begun else None  # a damaged checkpoint is told before its settings are
    precision = config.training.precision
    if precision == "auto" and begun:
        precision = load(resolve(begun) / "config.yaml").training.precision
    try:
        decided = decide_precision(precision, device)
    except ConfigError as error:
        if begun is None:
            raise
        raise ConfigError(f"{begun} was trained in {precision}: {error}") from error
    config = config.model_copy(
        update={
            "model": _standardised(config.model, corpus, begun or base),
            "objective": counted(config.objective, corpus),
            "training": config.training.model_copy(update={"precision": decided}),
        }
    )
    if init is not None:
        old = load(resolve(begun or init) / "config.yaml").model
        config = config.model_copy(update={"model": _heard_like(config.model, given, old)})
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        model = build_model(config.model, config.objective)
    with rounding_to_tf32(decided == "tf32"), join(config, model) as place, Interrupts() as interrupts:
        if place.writes and not resume:
            absent(experiment, but=LOCKS)
        place.wait()  # all have looked before one writes
        run = Run(config, corpus, experiment, model, device, place, interrupts, valid, keep, say, progress)
        if position is None:
            run.plan(base, init)
        with lock(experiment) if place.writes else nullcontext():
            run.start(base, init) if position is None else run.resume(position)
            before = run.position.step
            run.go()
            return run.position.step - before


@dataclass
class Run:
    """See `train`."""

    config: Config
    corpus: PackedCorpus
    experiment: Path
    model: GreedyInfoMax
    device: torch.device
    place: Alone
    interrupts: Interrupts
    valid: PackedCorpus | None
    keep: int | None
    say: Callable[[str], None]
    progress: Callable[[int, int, Metrics], None]

    def __post_init__(self) -> None:
        config, shared = self.config, self.place.count if self.config.training.parallel == "data" else 1
        self.crops = Crops(
            self.corpus,
            crop=config.data.crop,
            hop=config.model.hop,
            batch=config.training.batch * shared,
            seed=config.training.seed,
        )
        choices = config.objective.classes or config.objective.negatives.number + 1
        self.watch = LossWatch(len(self.model.stack), math.log(choices))
        self.optimizers: dict[int, Adam] = {}
        self.residency = Residency(self.model, self.experiment, self.device)
        if not self.place.writes:
            self.say = lambda line: None

    def plan(self, base: Path | None, init: Path | None) -> None:
        """Plan a run from the beginning. Nothing is written yet."""
        if self.crops.unused > MOST_UNUSED and self.config.data.short == "refuse":
            raise DataError(
                f"{self.corpus.path}: {self.crops.left_out}: {self.crops.advice()}; "
                "data.short='leave out' trains without them"
            )
        self.position = Position(self.corpus.fingerprint, self.crops.batch, updates=[0] * len(self.model.stack))
        self.position.labels = labels_fingerprint(self.config.objective, self.corpus)
        if base is not None:
            self.position.trained = graft(self.config, self.model, base)
        if init is not None:
            new = begin_with(self.config, self.model, init)
            heads = f"; the prediction heads of modules {', '.join(map(str, new))} are new" if new else ""
            self.say(f"beginning with the weights of {init}{heads}")
        self.schedule = phases(self.config, self.crops.batch, self.position.trained)
        self.place.check(self.schedule)
        self.position.recent_losses = self.watch.recent

    def start(self, base: Path | None, init: Path | None) -> None:
        """Start the run as planned."""
        if self.place.writes:
            save(self.experiment, self.config, self.model.state_dict(), {}, self.position)
        self._note(**{key: str(path) for key, path in (("grown_from", base), ("begun_with", init)) if path})

    def resume(self, position: Position) -> None:
        """Continue from the last checkpoint."""
        check_same(self.experiment, self.config)
        self.position = position
        if self.position.corpus != self.corpus.fingerprint:
            raise DataError(f"{self.corpus.path}: not the corpus that {self.experiment} was trained on")
        if self.position.batch != self.crops.batch:
            raise CheckpointError(
                f"{self.experiment}: was trained with {self.position.batch} crops a step, not {self.crops.batch}"
            )
        labels = labels_fingerprint(self.config.objective, self.corpus)
        if self.position.labels and self.position.labels != labels:
            what = "phones.ctm has" if self.config.objective.kind == "phones" else "utt2spk has"
            raise DataError(f"{self.corpus.path}: {what} other labels than those {self.experiment} was trained on")
        self.position.labels = labels  # a checkpoint of an older version had none
        check_decay(self.experiment, self.config, self.position)
        self.schedule = phases(self.config, self.crops.batch, self.position.trained)
        self.place.check(self.schedule)
        self.watch.recent = self.position.recent_losses
        self.model.load_state_dict(load_model(self.experiment)[1].state_dict())
        self.say(f"resuming {self.experiment} from step {self.position.step}")
        if not self._done():
            self._note()

    def _note(self, **more: str) -> None:
        if self.crops.left_out:
            self.say(f"left out of training: {self.crops.left_out}; {self.crops.advice()}")
        if self.place.writes:
            write_text(self.experiment / "config.yaml", self.config.to_yaml())
            note_start(self.experiment / "provenance.json", self.position.step, **more)
        self.place.wait()

    def _done(self) -> bool:
        return self.position.phase == len(self.schedule) and self._over(self.schedule[-1], self._history())

    def go(self) -> None:
        """All phases that are left."""
        for phase in self.schedule[self.position.phase - 1 :]:
            if phase.number > self.position.phase:
                self.position.phase, self.position.phase_step = phase.number, 0
                self.place.wait()  # until what the last phase learnt can be read
            if not self._over(phase, self._history()):
                self._run(phase)
        if self.place.writes:
            shutil.rmtree(self.experiment / "cache", ignore_errors=True)

    def _run(self, phase: Phase) -> None:
        self.residency.load(phase.last)
        if phase.warm_start and self.position.phase_step == 0:
            begin_as_below(self.model, phase.modules)
        feed, step = self._prepare(phase)
        history, path = self._history(), self.experiment / "metrics.jsonl"
        with open_lines(path, self.position.step) if self.place.writes else nullcontext() as journal:
            while not self._over(phase, history):
                started = time.perf_counter()
                with self._naming_the_last_checkpoint():
                    report = self._step(phase, feed, step)
                    if journal is not None:
                        self._write(phase, report, time.perf_counter() - started, journal)
                    history.append([float(report[1, module - 1]) for module in phase.modules])
                    due = self.position.phase_step % self.config.training.checkpoint_every == 0
                    asked, stopping = (bool(wish) for wish in report[:2, -1])
                    if due or asked or stopping or self._over(phase, history):
                        self._save(asked or stopping)
                if asked:
                    self.interrupts.save = False
                if stopping:
                    self.interrupts.leave()
        self.place.finish()

    def _history(self) -> deque[list[float]]:
        """Return as much of the accuracies of the phase's modules as its stop rule looks at."""
        phase = self.schedule[self.position.phase - 1]
        if phase.stop is None:
            return deque(maxlen=0)
        lines = read_lines(self.experiment / "metrics.jsonl", self.position.step)
        accuracies = [line["accuracy"] for line in lines if line["phase"] == phase.number]
        return deque(([a[module - 1] for module in phase.modules] for a in accuracies), maxlen=2 * phase.stop.over)

    def _over(self, phase: Phase, history: Sequence[Sequence[float]]) -> bool:
        return self.position.phase_step >= phase.steps or phase.stands_still(history)

    def _prepare(self, phase: Phase) -> tuple[Callable[[int], Tensor], Step]:
        """Return the input of the modules of a phase, and their step."""
        self.optimizers = {}  # of the phase before, whose memory this one may need
        self.model.zero_grad(set_to_none=True)
        give_back_freed_memory()
        part = self.place.part(self.crops.batch)
        feed: Callable[[int], Tensor]
        if phase.cache:
            feed = CachedFeed(self._cache(phase), self.device, part)
        else:
            waveforms = Feed(self.crops, self.device, self.config.data.on_device, part)
            feed = lambda index: self.model.standardise(waveforms(index))  # noqa: E731

        labels = labels_for(self.config.objective, self.model, self.crops, self.device, part)

        def costs() -> list[float]:
            self.residency.place(phase.first, phase.last)
            return measure(self.model, phase, self.config, feed(0), labels(0))

        first, last = self.place.begin(phase, costs, self.say)
        self.residency.place(first, last)
        self.residency.drop_all_but(first, last)
        training = self.config.training
        decays = training.weight_decay
        self.optimizers = {
            module: Adam(
                self.model.stack[module - 1].parameters(),
                rate,
                decays[module - 1] if isinstance(decays, tuple) else decays,
                training.clip,
            )
            for module, rate in zip(phase.modules, phase.learning_rates, strict=True)
            if first <= module <= last
        }
        if self.position.phase_step:
            restore(self.experiment, self.optimizers, set(phase.modules))
        step = Step(
            self.model,
            self.optimizers,
            self.config,
            first=first,
            last=last,
            settle=self.place.settle,
            ranks=self.place.ranks,
            salt=self.place.salt,
            labels=labels,
        )
        return feed, step

    def _cache(self, phase: Phase) -> Cache:
        """Return the cache of the phase's first module, made from that of an earlier phase."""
        dtype = torch.bfloat16 if self.config.training.precision == "bf16" else torch.float16
        earlier = {p.first for p in self.schedule[: phase.number] if p.cache}
        modules = sorted(module for module in earlier if module <= phase.first)
        caches = [
            Cache(self.experiment / "cache" / f"module-{module}", module, self.model, self.crops, dtype)
            for module in modules
        ]
        if self.place.writes:
            with self._naming_the_last_checkpoint():
                build(caches, self._samples, self.residency.place, self.say, self._stop_if_asked)
        self.place.wait()
        return caches[-1]

    def _stop_if_asked(self) -> None:
        if self.interrupts.stop is not None:
            self.interrupts.leave()

    def _samples(self, utterance: int, start: int, stop: int) -> Tensor:
        """A part of an utterance, standardised, as the `Source` of a cache."""
        pcm = np.empty(stop - start, dtype="<i2")
        self.corpus.fill(pcm, utterance, start)
        return self.model.standardise(send(torch.from_numpy(pcm)[None], self.device).float() / 32768)

    def _step(self, phase: Phase, feed: Callable[[int], Tensor], step: Step) -> Tensor:
        """One step, and what all processes have to say of it: see `REPORT_ROWS`."""
        position = self.position
        for module, rate in zip(phase.modules, phase.learning_rates, strict=True):
            if module in self.optimizers:
                self.optimizers[module].learning_rate = rate * phase.factor(position.phase_step)
        index = max(position.updates[module - 1] for module in phase.modules)
        given = self.place.receive(feed, index, last=position.phase_step + 1 == phase.steps)
        handed, losses, accuracies = step(given, index)
        position.step, position.phase_step = position.step + 1, position.phase_step + 1
        for module in phase.modules:
            position.updates[module - 1] += 1
        report = torch.full((REPORT_ROWS, len(self.model.stack) + 1), math.nan, dtype=torch.float64)
        report[:, -1] = 0
        report[0, -1], report[1, -1] = self.interrupts.save, self.interrupts.stop is not None
        columns = [module - 1 for module in self.optimizers]
        report[0, columns], report[1, columns] = losses.double().cpu(), accuracies.double().cpu()
        if position.step % self.config.training.diagnose_every == 0:
            for module, dead, rank in diagnose(self.model, given, step.first, step.last):
                report[2, module - 1], report[3, module - 1] = dead, rank
        report = self.place.report(handed, report)
        for module in phase.modules:
            if module <= step.last:  # the others are other processes'
                self.watch.check(module, position.step, float(report[0, module - 1]))
        return report

    def _write(self, phase: Phase, report: Tensor, seconds: float, journal: TextIO) -> None:
        """A line of metrics; modules that did not learn have none."""
        rows = [[None if math.isnan(value) else value for value in row] for row in report[:, :-1].tolist()]
        metrics: Metrics = {"step": self.position.step, "phase": phase.number, "loss": rows[0], "accuracy": rows[1]}
        metrics["seconds"] = round(seconds, 4)
        if self.position.step % self.config.training.diagnose_every == 0:
            metrics |= {"dead_units": rows[2], "effective_rank": rows[3], "peak_bytes": peak_bytes(self.device)}
        journal.write(json.dumps(metrics) + "\n")
        before = sum(earlier.steps for earlier in self.schedule[: phase.number - 1])
        self.progress(before + self.position.phase_step, sum(p.steps for p in self.schedule), metrics)

    def _save(self, asked: bool) -> None:
        """A checkpoint, and what follows from it."""
        for module in self.optimizers:
            check_weights(module, self.position.step, self.model.stack[module - 1].parameters())
        found = self.place.collect(
            self.residency.here() | {f"adam {n}": t for n, t in moments(self.optimizers).items()}
        )
        if not self.place.writes:
            return
        optimizers = {n.removeprefix("adam "): found.pop(n) for n in list(found) if n.startswith("adam ")}
        self.position.recent_losses = self.watch.recent
        folder = save(self.experiment, self.config, self.residency.complete(found), optimizers, self.position)
        if self.valid is not None:
            self._validate(folder, self.valid)
        if self.keep is not None:
            prune(self.experiment, self.keep)
        if asked:
            self.say(f"saved {folder}: --resume goes on from there")

    def _validate(self, folder: Path, valid: PackedCorpus) -> None:
        path = self.experiment / "validation.jsonl"
        before = read_lines(path, self.position.step - 1)
        found = validate(folder, valid, self.config, self.device, self.corpus)
        begun = [number for number, updates in enumerate(self.position.updates, start=1) if updates]
        begun = [*range(1, self.position.trained + 1), *begun]
        with open_lines(path, self.position.step - 1) as lines:
            lines.write(json.dumps({"step": self.position.step, "modules": begun, **found}) + "\n")

        def loss(line: Metrics) -> float:
            return float(sum(line["loss"][module - 1] for module in begun))

        # Where another module has begun to learn since, the earlier checkpoints hold less.
        if all(loss(found) < loss(line) for line in before if line.get("modules", begun) == begun):
            replace_link(self.experiment / "best", folder.name)

    @contextmanager
    def _naming_the_last_checkpoint(self) -> Iterator[None]:
        try:
            yield
        except (GimAudioError, OSError, MemoryError, RuntimeError) as error:
            kind, what = type(error) if isinstance(error, GimAudioError) else GimAudioError, str(error)
            if is_out_of_memory(error):
                what = "the memory is not enough: take a smaller training.batch or data.crop"
            elif not isinstance(error, GimAudioError | OSError):
                raise
            raise kind(f"{what}: training stops; the last good checkpoint is {resolve(self.experiment)}") from error


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


def _heard_like(model: ModelConfig, given: ModelConfig, old: ModelConfig) -> ModelConfig:
    """Return a model with the standardisation of another, but for what was measured where `auto` was given."""
    kept = {name: getattr(old, name) for name in ("mean", "deviation") if getattr(given, name) != "auto"}
    return model.model_copy(update=kept)


def _standardised(model: ModelConfig, corpus: PackedCorpus, known: Path | None) -> ModelConfig:
    """Return a model with numbers in the place of `auto`: those of an experiment, or of the corpus."""
    if "auto" not in {model.mean, model.deviation}:
        return model
    if known is not None:
        trained = load(resolve(known) / "config.yaml").model
        mean, deviation = trained.mean, trained.deviation
    else:
        mean, deviation = corpus.statistics()
    return model.model_copy(
        update={
            "mean": mean if model.mean == "auto" else model.mean,
            "deviation": deviation if model.deviation == "auto" else model.deviation,
        }
    )
