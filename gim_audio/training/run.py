"""Train a model: settle what is asked for, and run it."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from gim_audio.checkpoints.folders import newest, resolve
from gim_audio.config import Config, ModelConfig, Precision, TrainingConfig, load
from gim_audio.devices import arithmetic, decide_precision, pick_device
from gim_audio.errors import ConfigError, DataError
from gim_audio.files import LOCKS, absent, lock
from gim_audio.model.build import build_model
from gim_audio.packed import PackedCorpus
from gim_audio.training.checkpointer import Checkpointer
from gim_audio.training.interrupts import Interrupts
from gim_audio.training.labels import counted
from gim_audio.training.metrics_log import Metrics
from gim_audio.training.processes import join
from gim_audio.training.trainer import Trainer

__all__ = ["train"]


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
    """Train modules by their own losses, in the phases of the schedule.

    Args:
        config: The configuration of the experiment; `auto` standardisation is measured on the
            corpus.
        corpus: The corpus that crops are drawn from.
        experiment: The folder for everything that training writes: a new one, or with `resume` the
            one to continue.
        resume: True to resume from the latest checkpoint, to the same weights as a run that never
            stopped.
        base: An experiment whose modules this model begins with; they stay as they are.
        init: A model whose weights this model begins with; they learn on. Its standardisation is
            taken too, unless the configuration measures it (`auto`).
        valid: A corpus to measure the losses on at each checkpoint; `best` points at the best one.
        keep: The number of checkpoints to keep, beside the untrained and the best; None keeps all.
        say: A function that takes a line for the user.
        progress: A function that takes the numbers of steps done and planned, and a step's metrics.

    Returns:
        The number of steps that were made.

    Raises:
        GimAudioError: `experiment` exists, was trained with another configuration or corpus or is
            in use, a loss diverged, or another process of the run is gone.
        KeyboardInterrupt: After Ctrl-C, when a checkpoint is written.
        SystemExit: After SIGTERM, likewise.
    """
    experiment, base, init = Path(experiment), _path(base), _path(init)
    if base is not None and init is not None:
        raise ConfigError(
            "--from and --init: a stack either grows on another or begins with its weights"
        )
    for other in (corpus, valid):
        if other is not None and other.rate != config.model.rate:
            wanted = config.model.rate
            raise DataError(f"{other.path}: packed at {other.rate} Hz, the model wants {wanted} Hz")
    device = pick_device(config.training.device)
    begun = experiment if resume and newest(experiment) else None
    # A damaged checkpoint is reported before wrong settings are.
    position = Checkpointer.position(experiment) if begun else None
    config = _settled(config, corpus, device, begun, base, init)
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        model = build_model(config.model, config.objectives)
    rounding = arithmetic(tf32=config.training.precision == "tf32")
    with rounding, join(config, model) as distribution, Interrupts() as interrupts:
        if distribution.writes and not resume:
            absent(experiment, but=LOCKS)
        distribution.wait()  # all have looked before one writes
        checkpointer = Checkpointer(experiment, config, valid, corpus, keep, device)
        trainer = Trainer(
            config, corpus, model, device, checkpointer, distribution, interrupts, say, progress
        )
        if position is None:
            trainer.plan(base, init)
        with lock(experiment) if distribution.writes else nullcontext():
            if position is None:
                trainer.start(base, init)
            else:
                trainer.resume(position)
            before = trainer.position.step
            trainer.run()
            return trainer.position.step - before


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


def _settled(
    config: Config,
    corpus: PackedCorpus,
    device: torch.device,
    begun: Path | None,
    base: Path | None,
    init: Path | None,
) -> Config:
    """Return a configuration with numbers where it said `auto`."""
    precision = _decided(config.training.precision, device, begun)
    model = _standardised(config.model, corpus, begun or base)
    if init is not None:
        model = _standardised_like(model, config.model, begun or init)
    training = config.training.model_copy(update={"precision": precision})
    if device.type == "cuda":
        training = _without_caches(training)
    config = counted(config, corpus)
    return config.model_copy(update={"model": model, "training": training})


def _without_caches(training: TrainingConfig) -> TrainingConfig:
    """Return the settings of a GPU, which computes a module's input faster than it reads it."""
    schedule = training.schedule
    if isinstance(schedule, tuple):
        schedule = tuple(phase.model_copy(update={"cache": False}) for phase in schedule)
    return training.model_copy(update={"cache": False, "schedule": schedule})


def _decided(precision: Precision, device: torch.device, begun: Path | None) -> Precision:
    """Return the precision to train in; a resumed run keeps the one that `auto` was."""
    if precision == "auto" and begun:
        precision = load(resolve(begun) / "config.yaml").training.precision
    try:
        return decide_precision(precision, device)
    except ConfigError as error:
        if begun is None:
            raise
        raise ConfigError(f"{begun} was trained in {precision}: {error}") from error


def _standardised(model: ModelConfig, corpus: PackedCorpus, known: Path | None) -> ModelConfig:
    """Return a model with the mean and deviation of an experiment, or of the corpus, for `auto`."""
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


def _standardised_like(model: ModelConfig, given: ModelConfig, other: Path) -> ModelConfig:
    """Return a model with the standardisation of another one, but for what `auto` measured."""
    old = load(resolve(other) / "config.yaml").model
    names = [name for name in ("mean", "deviation") if getattr(given, name) != "auto"]
    return model.model_copy(update={name: getattr(old, name) for name in names})
