"""The frozen schema of an experiment.

It is read from YAML and `key=value`, and saved with every checkpoint.
"""

from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, model_validator

from gim_audio.config.model import ModelConfig
from gim_audio.config.objectives import InfoNCEConfig, ObjectiveConfig, Objectives, UnitsConfig
from gim_audio.config.section import Positive, Section

Precision = Literal["auto", "fp32", "tf32", "bf16", "bf16-emulated"]


Decibels = tuple[float, float]


class AugmentConfig(Section):
    """Changes to what predicts, not to what is predicted (Kharitonov et al. 2020)."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The share of crops that each change is made to."""
    warp: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """The largest share by which frequencies are stretched or squeezed, as by a shorter or longer
    vocal tract (Jaitly and Hinton 2013)."""
    reject: Annotated[float, Field(ge=0)] = 0.0
    """The width in Hz of a band that is removed."""
    reverb: Annotated[float, Field(ge=0, le=5)] = 0.0
    """The longest reverberation, in seconds to -60 dB."""
    babble: Decibels | None = None
    """The lowest and highest level of the speech above a mixture of other crops, in dB."""
    noise: Decibels | None = None
    """The same above white noise."""


class DataConfig(Section):
    """Training examples."""

    crop: Positive = 20480
    """The number of samples of one training example."""
    short: Literal["refuse", "leave out"] = "refuse"
    """Utterances shorter than a crop are left out of training. Where they are more than half of the
    audio, `refuse` stops before training, and `leave out` trains on the others."""
    augment: AugmentConfig | None = None
    """Changes to the waveforms that modules take. Targets are of the waveforms as they were, and
    where frames are compared with predictions, so are these: such a module runs on both."""
    on_device: Literal["auto", "always", "never"] = "auto"
    """The place of the packed corpus: on the device (`always`) or not (`never`); `auto` keeps it on
    a GPU of which it takes at most half."""


class StopConfig(Section):
    """The rule that ends a phase when InfoNCE accuracy stands still."""

    change: Annotated[float, Field(gt=0)] = 0.002
    """The rise in mean accuracy below which a module stands still; a phase ends where all do."""
    over: Positive = 500
    """The number of steps in each of the two means that are compared."""


class PhaseConfig(Section):
    """A phase of training: some modules learn together, and those below them stay as they are."""

    modules: tuple[Positive, ...] | Literal["all"] = "all"
    steps: Positive | None = None
    """The length of the phase; None is `training.steps`."""
    stop: StopConfig | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """The learning rate of the phase; None is `training.learning_rate`."""
    decay: Literal["none", "linear", "cosine"] | None = None
    """The decay of the phase; None is `training.decay`."""
    warm_start: bool = False
    """True to begin with the weights of the module below, which must have the same shapes."""
    cache: bool = False
    """True to compute the input of the lowest of the modules once for the whole corpus and read it
    from disk. A GPU, which computes it faster than it reads it, does without."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.modules != "all" and list(self.modules) != sorted(set(self.modules)):
            raise ValueError(f"modules must rise, not {list(self.modules)}")
        return self


PerModule = Annotated[float, Field(ge=0)]


class TrainingConfig(Section):
    """The schedule, the optimizer, the device and the checkpoints."""

    schedule: Literal["joint", "sequential"] | tuple[PhaseConfig, ...] = "joint"
    """All modules at once (`joint`), one after another (`sequential`), each for `steps`, or a list
    of phases."""
    cache: bool = False
    """True to cache the input of modules from the third on, with `sequential`: see
    `PhaseConfig.cache`."""
    steps: Positive = 100_000
    batch: Positive = 8
    """The number of crops in a step; with `parallel: data`, of each process."""
    learning_rate: (
        Annotated[float, Field(gt=0)] | tuple[Annotated[float, Field(gt=0)], ...] | Literal["auto"]
    ) = 2e-4
    """One learning rate, or one for each module. `auto` is 2e-4 for a batch of 8 and grows with the
    square root of the batch (Malladi et al. 2022, for Adam)."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """The number of steps over which the learning rate rises at the beginning of a phase."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """The way in which the learning rate falls to zero over a phase."""
    weight_decay: PerModule | tuple[PerModule, ...] = 0.0
    """The decoupled weight decay (Loshchilov and Hutter 2019): a step takes this times the learning
    rate off."""
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The decay of a running mean of the weights, which takes their place when a phase ends (Polyak
    averaging); over the first steps it is less. None keeps the last weights."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """The largest norm of the gradient of one module; None does not clip."""
    precision: Precision = "fp32"
    """`auto`: bf16 where the processor or GPU multiplies it faster than fp32, else fp32. `bf16` is
    refused where it is slower, unless it is called `bf16-emulated`."""
    device: str = "auto"
    cuda_graph: Literal["auto", "never"] = "auto"
    """`auto` has a GPU replay the whole step as one graph, where one process trains."""
    parallel: Literal["none", "data", "modules"] = "none"
    """The work that processes under torchrun share: each batch, or the modules."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 2
    checkpoint_every: Positive = 1000
    diagnose_every: Positive = 100
    """The number of steps between two measurements of dead units and effective rank."""


class Config(Section):
    """The configuration of an experiment."""

    model: ModelConfig = ModelConfig()
    objective: Objectives = InfoNCEConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @property
    def objectives(self) -> tuple[ObjectiveConfig, ...]:
        """The objective of each module, from the bottom up."""
        if isinstance(self.objective, tuple):
            return self.objective
        return (self.objective,) * self.model.num_modules

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self._fit_objectives()
        phases = self.training.schedule if isinstance(self.training.schedule, tuple) else ()
        if self.data.augment and (self.training.cache or any(phase.cache for phase in phases)):
            raise ValueError("data.augment changes waveforms in every step: there is no cache")
        if self.training.parallel != "none":
            self._fit_processes()
        for name in ("learning_rate", "weight_decay"):
            given = getattr(self.training, name)
            if isinstance(given, tuple) and len(given) != self.model.num_modules:
                raise ValueError(
                    f"training.{name} has {len(given)} values for {self.model.num_modules} modules"
                )
        if self.training.cache and self.training.schedule != "sequential":
            raise ValueError(
                "training.cache is for the sequential schedule; a phase of a list has its own"
            )
        phases = self.training.schedule if isinstance(self.training.schedule, tuple) else ()
        for number, phase in enumerate(phases, start=1):
            if phase.modules != "all" and phase.modules[-1] > self.model.num_modules:
                raise ValueError(
                    f"training.schedule: phase {number} trains module {phase.modules[-1]} of"
                    f" {self.model.num_modules}"
                )
        return self

    def _fit_processes(self) -> None:
        kind = self.training.parallel
        if self.model.reach > 1:
            raise ValueError(
                f"model.reach of {self.model.reach}: gradients do not go from process to process,"
                f" as training.parallel={kind} would need"
            )
        if self.model.norm == "batch":
            raise ValueError(
                f"model.norm=batch: with training.parallel={kind} each process would have"
                " statistics of its own; take channel"
            )
        spans = [each for each in self.objectives if getattr(each, "spans", None)]
        if kind == "modules" and len(spans) > 1:
            raise ValueError(
                "objective.spans: with training.parallel=modules one module hides frames, not"
                f" {len(spans)}"
            )

    def _fit_objectives(self) -> None:
        if len(self.objectives) != self.model.num_modules:
            raise ValueError(
                f"objective has {len(self.objectives)} entries for {self.model.num_modules} modules"
            )
        frames = self.data.crop
        for kernel, stride, padding in self.model.convolutions:
            frames = (frames + 2 * padding - kernel) // stride + 1
        batch = self.training.batch
        for number, objective in enumerate(self.objectives, start=1):
            steps = getattr(objective, "steps_ahead", 0)
            if frames <= steps:
                raise ValueError(
                    f"data.crop of {self.data.crop} samples gives {frames} frames, "
                    f"objective.steps_ahead needs at least {steps + 1}"
                )
            if (
                isinstance(objective, UnitsConfig)
                and objective.of != "mfcc"
                and (objective.of >= number)
            ):
                raise ValueError(
                    f"objective.of: module {number} can learn units of a module below it, not of"
                    f" {objective.of}"
                )
            if not isinstance(objective, InfoNCEConfig):
                continue
            negatives = objective.negatives
            if negatives.kind == "pool" and negatives.number > batch * frames:
                raise ValueError(
                    f"objective.negatives.number: a pool of {negatives.number} from"
                    f" {batch * frames} frames, which is what {batch} crops of"
                    f" {self.data.crop} samples give: take fewer, or a larger batch or crop"
                )

    def to_yaml(self) -> str:
        """Return the whole configuration as YAML, defaults included; `load` reads it back."""
        return yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, default_flow_style=None
        )
