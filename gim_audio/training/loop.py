"""The step and the loop: each module updates straight after its own forward pass."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from gim_audio.config import Config, ModelConfig
from gim_audio.errors import DataError, GimAudioError
from gim_audio.files import absent, write_text
from gim_audio.model.checkpoint import newest, resolve
from gim_audio.model.devices import keep_freed_memory, pick_device, set_precision
from gim_audio.model.gim import GreedyInfoMax
from gim_audio.packed import Crops, PackedCorpus
from gim_audio.provenance import provenance
from gim_audio.training.adam import Adam
from gim_audio.training.feed import Feed
from gim_audio.training.health import LossWatch, check_weights, dead_units, effective_rank
from gim_audio.training.state import check_same, restore, save

__all__ = ["train", "train_step"]

Metrics = dict[str, Any]


def train(
    config: Config,
    corpus: PackedCorpus,
    experiment: Path,
    *,
    resume: bool = False,
    say: Callable[[str], None] = print,
    progress: Callable[[Metrics], None] = lambda metrics: None,
) -> None:
    """Train all modules jointly, each by its own loss; checkpoints and `metrics.jsonl` go to `experiment`.

    Args:
        config: of the experiment; `auto` standardisation is measured on the corpus.
        corpus: to draw crops from.
        experiment: a new folder, or with `resume` the one to go on with.
        resume: go on from the latest checkpoint, to the same weights as a run that never stopped.
        say: takes a line for the user.
        progress: takes each step's metrics.

    Raises:
        GimAudioError: `experiment` exists, was trained with another configuration or corpus, or a loss
            diverged.
    """
    if corpus.rate != config.model.rate:
        raise DataError(f"{corpus.path}: packed at {corpus.rate} Hz, the model wants {config.model.rate} Hz")
    device = pick_device(config.training.device)
    set_precision(config.training.precision, device)
    keep_freed_memory()
    config = config.model_copy(update={"model": _standardised(config.model, corpus)})
    fresh = not resume or newest(experiment) is None
    if fresh and not resume:
        absent(experiment)
    elif not fresh:
        check_same(experiment, config)

    crops = Crops(
        corpus,
        crop=config.data.crop,
        hop=config.model.hop,
        batch=config.training.batch,
        seed=config.training.seed,
    )
    if crops.left_out:
        say(f"{crops.left_out} of {len(corpus)} utterances are shorter than a crop and left out of training")

    feed = Feed(crops, device, config.data.on_device)

    torch.manual_seed(config.training.seed)
    model = GreedyInfoMax.build(config.model, config.objective).to(device)
    optimizers = [Adam(module.parameters(), config.learning_rate) for module in model.stack]
    watch = LossWatch(len(model.stack), math.log(config.objective.negatives.number + 1))
    state: dict[str, Any] = {"step": 0, "recent_losses": watch.recent, "corpus": corpus.fingerprint}
    if fresh:
        experiment.mkdir(parents=True, exist_ok=True)
        save(experiment, config, model, optimizers, state)
    else:
        state = restore(experiment, model, optimizers)
        watch.recent = state["recent_losses"]
        if state["corpus"] != corpus.fingerprint:
            raise DataError(f"{corpus.path}: not the corpus that {experiment} was trained on")
        say(f"resuming {experiment} from step {state['step']} of {config.training.steps}")

    write_text(experiment / "config.yaml", config.to_yaml())
    if state["step"] < config.training.steps:
        _note_provenance(experiment / "provenance.json", state["step"])

    with _open_metrics(experiment / "metrics.jsonl", state["step"]) as metrics_file:
        for step in range(state["step"], config.training.steps):
            started = time.perf_counter()
            done = step + 1
            with _naming_the_last_checkpoint(experiment):
                waveform = feed(step)
                metrics = train_step(model, optimizers, waveform, watch, config, step)
            metrics = {"step": done, **metrics, "seconds": round(time.perf_counter() - started, 4)}
            if done % config.training.diagnose_every == 0:
                metrics |= _diagnose(model, waveform)
            with _naming_the_last_checkpoint(experiment):
                metrics_file.write(json.dumps(metrics) + "\n")
                if done % config.training.checkpoint_every == 0 or done == config.training.steps:
                    for number, module in enumerate(model.stack, start=1):
                        check_weights(number, done, module.parameters())
                    save(experiment, config, model, optimizers, state | {"step": done, "recent_losses": watch.recent})
            progress(metrics)


def train_step(
    model: GreedyInfoMax,
    optimizers: Sequence[Adam],
    waveform: Tensor,
    watch: LossWatch,
    config: Config,
    step: int,
) -> Metrics:
    """One update of every module."""
    generator = draws(config, step)
    dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    losses, accuracies = [], []
    for score, optimizer in zip(model.scores(waveform, generator, dtype), optimizers, strict=True):
        score.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(score.loss.detach())
        accuracies.append(score.accuracy)
    found = torch.stack(losses).tolist()  # all at once: here a GPU is waited for
    for number, loss in enumerate(found, start=1):
        watch.check(number, step + 1, loss)
    return {"loss": found, "accuracy": torch.stack(accuracies).tolist()}


def draws(config: Config, step: int) -> torch.Generator:
    """What windows and negatives of a step are drawn from: nothing but the seed and the step."""
    return torch.Generator().manual_seed(config.training.seed * 1_000_000_007 + step)


@contextmanager
def _naming_the_last_checkpoint(experiment: Path) -> Iterator[None]:
    try:
        yield
    except (GimAudioError, OSError) as error:
        raise GimAudioError(f"{error}: training stops; the last good checkpoint is {resolve(experiment)}") from error


def _standardised(model: ModelConfig, corpus: PackedCorpus) -> ModelConfig:
    if "auto" not in {model.mean, model.deviation}:
        return model
    mean, deviation = corpus.statistics()
    return model.model_copy(
        update={
            "mean": mean if model.mean == "auto" else model.mean,
            "deviation": deviation if model.deviation == "auto" else model.deviation,
        }
    )


def _note_provenance(path: Path, step: int) -> None:
    """Each start of a run adds its command, commit and hardware: a resumed run has several."""
    starts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    write_text(path, json.dumps([*starts, {"from_step": step, **provenance()}], indent=2) + "\n")


def _open_metrics(path: Path, step: int) -> TextIO:
    """Open for appending after dropping what was written after the checkpoint."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("}\n")]
        write_text(path, "".join(line for line in whole if json.loads(line)["step"] <= step))
    return path.open("a", encoding="utf-8", buffering=1)


@torch.no_grad()
def _diagnose(model: GreedyInfoMax, waveform: Tensor) -> Metrics:
    """Signs of collapse in each module's features: some 128 frames of each utterance tell enough."""
    x = model.standardise(waveform)
    dead, rank = [], []
    for module in model.stack:
        z, c, _ = module(x)
        some = c[:, :: max(1, c.shape[1] // 128)]
        dead.append(round(dead_units(some), 4))
        rank.append(round(effective_rank(some), 2))
        x = z.transpose(1, 2)
    return {"dead_units": dead, "effective_rank": rank}
