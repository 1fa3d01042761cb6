"""The schemas of objectives, which are chosen by `kind`, and how a package adds one of its own."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, TypeAdapter, model_validator

from gim_audio.config.section import Positive, Section

__all__ = [
    "ENTRY_POINTS",
    "HingeConfig",
    "InfoNCEConfig",
    "NegativesConfig",
    "ObjectiveConfig",
    "Objectives",
    "PhonesConfig",
    "SpansConfig",
    "SpeakersConfig",
    "SpectraConfig",
    "UnitsConfig",
    "VICRegConfig",
    "register_kind",
]

ENTRY_POINTS = "gim_audio.objectives"
"""The group of entry points in which an installed package announces its objectives by kind."""


Ahead = Annotated[tuple[Annotated[int, Field(ge=-100, le=100)], ...], Field(min_length=1)]


class ObjectiveConfig(Section):
    """The settings of an objective; each kind has its own."""

    kind: str


class NegativesConfig(Section):
    """The sampling of negatives."""

    kind: Literal["batch", "exact", "utterance", "pool"] = "batch"
    number: Positive = 10
    ranks: Literal["all", "own"] = "all"
    """The crops that negatives are drawn from with `parallel: data`: those of all processes, as one
    process with all of them would, or a process's own, which sends less."""


class InfoNCEConfig(ObjectiveConfig):
    """Tell the frame that comes from others (van den Oord et al. 2018)."""

    kind: Literal["infonce"] = "infonce"
    steps_ahead: Positive = 12
    negatives: NegativesConfig = NegativesConfig()
    window: Positive = 128
    """The number of frames of a crop in which InfoNCE predicts; `steps_ahead` is how many frames
    ahead it does."""
    horizon: Annotated[float, Field(gt=0)] | None = None
    """The milliseconds from a context to the last step. The steps are spread evenly over them, and
    the window's frames lie as far apart. None: a step is a frame."""
    temperature: Annotated[float, Field(gt=0)] | Literal["learnt"] | None = None
    """The number that scores are divided by, where predictions and frames are scaled to length 1
    first; `learnt` begins with 0.1. None: scores are products as they are."""
    predictor: Literal["linear", "mlp", "recurrent", "transformer"] = "linear"
    """The network before the linear maps W_k: none, a hidden layer, a GRU, or a causal transformer
    layer, over the contexts of the window."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.window <= self.steps_ahead:
            raise ValueError(
                f"window ({self.window}) must be more than steps_ahead ({self.steps_ahead})"
            )
        return self


class HingeConfig(ObjectiveConfig):
    """Tell whether a prediction fits a frame, by a hinge loss (CLAPP, Illing et al. 2021)."""

    kind: Literal["hinge"] = "hinge"
    steps_ahead: Positive = 12
    margin: Annotated[float, Field(gt=0)] = 1.0


class VICRegConfig(ObjectiveConfig):
    """Keep neighbouring frames alike and channels varied (Bardes et al. 2022)."""

    kind: Literal["vicreg"] = "vicreg"
    apart: Annotated[float, Field(ge=0)] = 20.0
    """The milliseconds between two frames that should be alike, at least a frame."""
    width: Positive = 512
    """The number of channels of the projection that is compared."""
    alike: Annotated[float, Field(ge=0)] = 25.0
    varied: Annotated[float, Field(ge=0)] = 25.0
    uncorrelated: Annotated[float, Field(ge=0)] = 1.0


class SpectraConfig(ObjectiveConfig):
    """Predict log mel frames (autoregressive predictive coding, Chung et al. 2019)."""

    kind: Literal["spectra"] = "spectra"
    ahead: Ahead = (0,)
    """The frames, at the rate of the last convolution: 0 is the present one, 3 the third after."""
    bands: Annotated[int, Field(ge=2, le=512)] = 80
    hidden: Annotated[int, Field(ge=0)] = 256
    """The number of units of the hidden layer that predicts; 0 predicts linearly."""


class SpansConfig(Section):
    """The spans of frames that a context does not see (Baevski et al. 2020)."""

    starts: Annotated[float, Field(gt=0, lt=1)] = 0.065
    """The share of frames with which a span begins."""
    length: Positive = 10
    """The number of frames of a span; spans may overlap."""


class UnitsConfig(ObjectiveConfig):
    """Name units: clusters of MFCC, or of the features of a module below (Hsu et al. 2021)."""

    kind: Literal["units"] = "units"
    of: Literal["mfcc"] | Positive = "mfcc"
    """The features that k-means clusters: MFCC with deltas, normalised by utterance, or those of a
    module, which stands still in the phase in which its units are learnt."""
    number: Annotated[int, Field(ge=2, le=10_000)] = 100
    ahead: Ahead = (0,)
    """The frames that are named, as in `spectra`."""
    spans: SpansConfig | None = None
    """Spans of frames that the context of the module, and those above it, do not see. With them,
    these frames alone are named."""


class PhonesConfig(ObjectiveConfig):
    """Name the phones of `phones.ctm`."""

    kind: Literal["phones"] = "phones"
    classes: Positive | None = None
    """The number of phones; None lets `train` count them."""
    shift: Annotated[int, Field(ge=-1000, le=1000)] = 1
    """The delay of phone labels in steps of 10 ms: see `gim_audio.phones.frame_labels`."""


class SpeakersConfig(ObjectiveConfig):
    """Name the speaker of a crop."""

    kind: Literal["speakers"] = "speakers"
    classes: Positive | None = None
    """The number of speakers; None lets `train` count them."""


_KINDS: dict[str, type[ObjectiveConfig]] = {}


def register_kind(config: type[ObjectiveConfig]) -> None:
    """Let configurations choose an objective.

    Args:
        config: The settings of the objective. The default of `kind` is its name.

    Raises:
        ValueError: Another objective has that name.
    """
    kind = str(config.model_fields["kind"].default)
    if _KINDS.setdefault(kind, config) is not config:
        raise ValueError(f"there are two objectives of kind {kind}")


for _config in (
    InfoNCEConfig,
    HingeConfig,
    VICRegConfig,
    SpectraConfig,
    UnitsConfig,
    PhonesConfig,
    SpeakersConfig,
):
    register_kind(_config)

_PREDICTS = {"steps_ahead", "negatives", "window"}
_IGNORED = {
    "infonce": {"classes", "shift"},
    "phones": _PREDICTS,
    "speakers": {*_PREDICTS, "shift"},
}
"""Settings that configurations before version 0.2 have for every kind."""


def _found(kind: str) -> type[ObjectiveConfig]:
    if kind not in _KINDS:
        for point in entry_points(group=ENTRY_POINTS, name=kind):
            point.load()  # it registers itself
    if kind not in _KINDS:
        raise ValueError(
            f"kind: there is no objective {kind!r}: it is one of {', '.join(sorted(_KINDS))}, or of"
            f" an installed package's entry points {ENTRY_POINTS}"
        )
    return _KINDS[kind]


def _read(value: object) -> object:
    if not isinstance(value, dict):
        if isinstance(value, ObjectiveConfig):
            return value
        raise ValueError("expected settings such as {kind: infonce}")
    settings: dict[str, Any] = {"kind": "infonce", **value}
    kind = str(settings["kind"])
    config = _found(kind)
    ignored = _IGNORED.get(kind, set())
    return config.model_validate({k: v for k, v in settings.items() if k not in ignored})


_Objective = Annotated[SerializeAsAny[ObjectiveConfig], BeforeValidator(_read)]
_ONE: TypeAdapter[ObjectiveConfig] = TypeAdapter(_Objective)
_EACH: TypeAdapter[tuple[ObjectiveConfig, ...]] = TypeAdapter(tuple[_Objective, ...])


def _read_all(value: object) -> object:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _EACH.validate_python(value)
    return _ONE.validate_python(value)


Objectives = Annotated[
    SerializeAsAny[ObjectiveConfig] | tuple[SerializeAsAny[ObjectiveConfig], ...],
    BeforeValidator(_read_all),
]
"""One objective for all modules, or a list with one for each of them."""
