"""The frozen schema of an experiment.

It is read from YAML and `key=value`, and saved with every checkpoint.
"""

import math
from typing import Annotated, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Precision = Literal["auto", "fp32", "tf32", "bf16", "bf16-emulated"]


class Section(BaseModel):
    """A part of the schema: frozen, and without room for a misspelt key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        if (
            isinstance(value, bool)
            and cls.model_fields[str(info.field_name)].annotation is not bool
        ):
            raise ValueError(f"{str(value).lower()} is not a number or a name")
        return value


class ContextConfig(Section):
    """The context network, which summarises the past as c_t.

    It is a GRU, causal convolutions or nothing.
    """

    kind: Literal["gru", "conv", "none"] = "gru"
    hidden: Positive = 256
    bptt: bool = True
    """True to propagate a GRU's gradients through time; without it, the previous state is a
    constant."""
    layers: Positive = 4
    """The number of causal convolutions, for `conv`."""
    kernel: Annotated[int, Field(ge=2)] = 5
    """The frames that each causal convolution sees, the present one included."""
    at: Literal["last", "each"] = "last"
    """The place of contexts: one on the last convolution, or one in each module."""


class ConvolutionConfig(Section):
    """A convolution that is added to a trained stack as a module of its own."""

    kernel: Positive
    stride: Positive = 1
    padding: Annotated[int, Field(ge=0)] = 0
    channels: Positive = 512


class ModelConfig(Section):
    """The encoder, the context, the cuts between modules, and modules added to a trained stack."""

    kernels: tuple[Positive, ...] = (10, 8, 4, 4, 4)
    strides: tuple[Positive, ...] = (5, 4, 2, 2, 2)
    paddings: tuple[Annotated[int, Field(ge=0)], ...] = (2, 2, 2, 2, 1)
    channels: Positive | tuple[Positive, ...] = 512
    context: ContextConfig = ContextConfig()
    isolate_after: tuple[Positive, ...] = (1, 2, 3, 4, 5)
    added: tuple[ConvolutionConfig | ContextConfig, ...] = ()
    """Modules on top of a trained stack. A convolution takes the frames of the module below; a
    context takes them too, or the contexts of a module that is a context alone."""
    rate: Annotated[int, Field(ge=1, le=2_000_000)] = 16000
    mean: float | Literal["auto"] = -0.000678111
    deviation: Annotated[float, Field(gt=0)] | Literal["auto"] = 0.0630056

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of channels of each convolution."""
        return (
            (self.channels,) * len(self.kernels)
            if isinstance(self.channels, int)
            else self.channels
        )

    @property
    def num_modules(self) -> int:
        """The number of modules."""
        return (
            len({*self.isolate_after, len(self.kernels)})
            + self.context_is_a_module
            + len(self.added)
        )

    @property
    def context_is_a_module(self) -> bool:
        """True where the context is a module without convolutions."""
        return bool(self.isolate_after) and self.isolate_after[-1] == len(self.kernels)

    @property
    def hop(self) -> int:
        """The number of samples from one frame of the last convolution to the next."""
        return math.prod(stride for _, stride, _ in self.convolutions)

    @property
    def convolutions(self) -> list[tuple[int, int, int]]:
        """The kernel, stride and padding of every convolution, from the bottom up."""
        added = [
            (a.kernel, a.stride, a.padding) for a in self.added if isinstance(a, ConvolutionConfig)
        ]
        return [*zip(self.kernels, self.strides, self.paddings, strict=True), *added]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        convolutions = len(self.kernels)
        if not convolutions:
            raise ValueError("kernels: at least one convolution is needed")
        for name in ("strides", "paddings", "channels"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != convolutions:
                raise ValueError(f"{name} has {len(value)} values for {convolutions} kernels")
        for layer, (kernel, stride, padding) in enumerate(self.convolutions, start=1):
            if stride > kernel or padding >= kernel:
                raise ValueError(
                    f"convolution {layer}: kernel {kernel} must be at least the stride ({stride}) "
                    f"and more than the padding ({padding})"
                )
        lone_context = self.context.kind != "none" and self.context.at == "last"
        last = convolutions if lone_context else convolutions - 1
        if list(self.isolate_after) != sorted(set(self.isolate_after)) or any(
            n > last for n in self.isolate_after
        ):
            raise ValueError(
                f"isolate_after must rise and name convolutions from 1 to {last}, not"
                f" {list(self.isolate_after)}"
            )
        kinds = ["context" if self.context_is_a_module else "convolution"]
        for part in self.added:
            kinds.append("context" if isinstance(part, ContextConfig) else "convolution")
            if isinstance(part, ContextConfig) and part.kind == "none":
                raise ValueError("added: a context of kind none has nothing to learn")
            if kinds[-3:] == ["context", "context", "convolution"]:
                raise ValueError(
                    "added: a convolution cannot follow a context on a context: put it below them"
                )
        return self


class NegativesConfig(Section):
    """The sampling of negatives."""

    kind: Literal["batch", "exact", "utterance", "pool"] = "batch"
    number: Positive = 10
    ranks: Literal["all", "own"] = "all"
    """The crops that negatives are drawn from with `parallel: data`: those of all processes, as one
    process with all of them would, or a process's own, which sends less."""


class ObjectiveConfig(Section):
    """The objective of each module: InfoNCE, or the classification of phones or speakers."""

    kind: Literal["infonce", "phones", "speakers"] = "infonce"
    classes: Positive | None = None
    """The number of phones or speakers; None lets `train` count them."""
    shift: Annotated[int, Field(ge=-1000, le=1000)] = 1
    """The delay of phone labels in steps of 10 ms: see `gim_audio.phones.frame_labels`."""
    steps_ahead: Positive = 12
    negatives: NegativesConfig = NegativesConfig()
    window: Positive = 128
    """The number of frames of a crop in which InfoNCE predicts; `steps_ahead` is how many frames
    ahead it does."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.window <= self.steps_ahead:
            raise ValueError(
                f"window ({self.window}) must be more than steps_ahead ({self.steps_ahead})"
            )
        return self


class DataConfig(Section):
    """Training examples."""

    crop: Positive = 20480
    """The number of samples of one training example."""
    short: Literal["refuse", "leave out"] = "refuse"
    """Utterances shorter than a crop are left out of training. Where they are more than half of the
    audio, `refuse` stops before training, and `leave out` trains on the others."""
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
    decay: Literal["none", "linear", "cosine"] = "none"
    """The way in which the learning rate falls to zero over a phase."""
    weight_decay: PerModule | tuple[PerModule, ...] = 0.0
    """The decoupled weight decay (Loshchilov and Hutter 2019): a step takes this times the learning
    rate off."""
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
    objective: ObjectiveConfig = ObjectiveConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        frames = self.data.crop
        for kernel, stride, padding in self.model.convolutions:
            frames = (frames + 2 * padding - kernel) // stride + 1
        if frames <= self.objective.steps_ahead and self.objective.kind == "infonce":
            raise ValueError(
                f"data.crop of {self.data.crop} samples gives {frames} frames, "
                f"objective.steps_ahead needs at least {self.objective.steps_ahead + 1}"
            )
        negatives, batch = self.objective.negatives, self.training.batch
        if negatives.kind == "pool" and negatives.number > batch * frames:
            raise ValueError(
                f"objective.negatives.number: a pool of {negatives.number} from {batch * frames}"
                f" frames, which is what {batch} crops of {self.data.crop} samples give: take"
                " fewer, or a larger batch or crop"
            )
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

    def to_yaml(self) -> str:
        """Return the whole configuration as YAML, defaults included; `load` reads it back."""
        return yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, default_flow_style=None
        )
