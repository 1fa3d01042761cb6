"""The frozen schema of an experiment: read from YAML and `key=value`, saved with every checkpoint."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gim_audio.errors import ConfigError

__all__ = [
    "Config",
    "ContextConfig",
    "DataConfig",
    "ModelConfig",
    "NegativesConfig",
    "ObjectiveConfig",
    "TrainingConfig",
    "load",
]

Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the schema: frozen, and without room for a misspelt key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is not a number or a name")
        return value


class ContextConfig(Section):
    """What summarises the past, c_t: a GRU, causal convolutions or nothing."""

    kind: Literal["gru", "conv", "none"] = "gru"
    hidden: Positive = 256
    bptt: bool = True
    """GRU: propagate gradients through time; without it the previous state is a constant."""
    layers: Positive = 4
    """conv: how many causal convolutions."""
    kernel: Annotated[int, Field(ge=2)] = 5
    """conv: frames that each of them sees, the present one included."""
    at: Literal["last", "each"] = "last"
    """One context on the last convolution, or one for each module."""


class ModelConfig(Section):
    """Encoder, context, and where gradients are cut."""

    kernels: tuple[Positive, ...] = (10, 8, 4, 4, 4)
    strides: tuple[Positive, ...] = (5, 4, 2, 2, 2)
    paddings: tuple[Annotated[int, Field(ge=0)], ...] = (2, 2, 2, 2, 1)
    channels: Positive | tuple[Positive, ...] = 512
    context: ContextConfig = ContextConfig()
    isolate_after: tuple[Positive, ...] = (1, 2, 3, 4, 5)
    rate: Positive = 16000
    mean: float | Literal["auto"] = -0.000678111
    deviation: Annotated[float, Field(gt=0)] | Literal["auto"] = 0.0630056

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each convolution."""
        return (self.channels,) * len(self.kernels) if isinstance(self.channels, int) else self.channels

    @property
    def hop(self) -> int:
        """Samples from one frame of the last convolution to the next."""
        return math.prod(self.strides)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        convolutions = len(self.kernels)
        if not convolutions:
            raise ValueError("kernels: at least one convolution is needed")
        for name in ("strides", "paddings", "channels"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != convolutions:
                raise ValueError(f"{name} has {len(value)} values for {convolutions} kernels")
        for layer, (kernel, stride, padding) in enumerate(
            zip(self.kernels, self.strides, self.paddings, strict=True), start=1
        ):
            if stride > kernel or padding >= kernel:
                raise ValueError(
                    f"convolution {layer}: kernel {kernel} must be at least the stride ({stride}) "
                    f"and more than the padding ({padding})"
                )
        lone_context = self.context.kind != "none" and self.context.at == "last"
        last = convolutions if lone_context else convolutions - 1
        if list(self.isolate_after) != sorted(set(self.isolate_after)) or any(n > last for n in self.isolate_after):
            raise ValueError(
                f"isolate_after must rise and name convolutions from 1 to {last}, not {list(self.isolate_after)}"
            )
        return self


class NegativesConfig(Section):
    """Where the frames that are not the positive come from."""

    kind: Literal["batch", "exact", "utterance", "pool"] = "batch"
    number: Positive = 10


class ObjectiveConfig(Section):
    """InfoNCE: how far ahead, against what, and in how long a window."""

    steps_ahead: Positive = 12
    negatives: NegativesConfig = NegativesConfig()
    window: Positive = 128

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.window <= self.steps_ahead:
            raise ValueError(f"window ({self.window}) must be more than steps_ahead ({self.steps_ahead})")
        return self


class DataConfig(Section):
    """How the corpus is cut."""

    crop: Positive = 20480
    """Samples of one training example."""
    on_device: Literal["auto", "always", "never"] = "auto"
    """Whether the whole packed corpus is kept on the device: `auto` does on a GPU, where it fits into half of it."""


class TrainingConfig(Section):
    """How long, how fast, on what."""

    schedule: Literal["joint"] = "joint"
    steps: Positive = 100_000
    batch: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = 2e-4
    """`auto` is 2e-4 for a batch of 8 and grows with the square root of the batch (Malladi et al. 2022, for Adam)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    device: str = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 2
    checkpoint_every: Positive = 1000
    diagnose_every: Positive = 100
    """Steps between two looks at dead units and effective rank."""


class Config(Section):
    """One experiment."""

    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        frames = self.data.crop
        for kernel, stride, padding in zip(self.model.kernels, self.model.strides, self.model.paddings, strict=True):
            frames = (frames + 2 * padding - kernel) // stride + 1
        if frames <= self.objective.steps_ahead:
            raise ValueError(
                f"data.crop of {self.data.crop} samples gives {frames} frames, "
                f"objective.steps_ahead needs at least {self.objective.steps_ahead + 1}"
            )
        negatives, batch = self.objective.negatives, self.training.batch
        if negatives.kind == "pool" and negatives.number > batch * frames:
            raise ValueError(
                f"objective.negatives.number: a pool of {negatives.number} from {batch * frames} frames, "
                f"which is what {batch} crops of {self.data.crop} samples give: take fewer, or a larger batch or crop"
            )
        return self

    @property
    def learning_rate(self) -> float:
        """A number, whatever `training.learning_rate` says."""
        given = self.training.learning_rate
        return 2e-4 * math.sqrt(self.training.batch / 8) if given == "auto" else given

    def to_yaml(self) -> str:
        """The whole configuration, defaults included; `load` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, default_flow_style=None)


def load(path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file and apply `key=value` overrides such as `training.steps=500`.

    Raises:
        ConfigError: a key is unknown, a value has the wrong type or is impossible; names all of them.
    """
    settings = _read(path) if path else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override}: not of the form key=value, such as training.steps=500")
        *sections, name = key.split(".")
        section = settings
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{override}: {part} is a value, not a section")
        try:
            section[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{override}: {value} is not YAML") from error
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{path or 'configuration'}: {_explain(error)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected sections (model, objective, data, training), found {settings!r}")
    return settings


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            what = "unknown key"
        given = "" if problem["type"] in {"extra_forbidden", "value_error"} else f" (given {problem['input']!r})"
        lines.append(f"{where}: {what}{given}" if where else what)
    return "; ".join(lines)
