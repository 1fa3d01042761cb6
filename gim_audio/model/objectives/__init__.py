"""The objectives that train modules, by kind."""

from gim_audio.model.objectives.base import (
    Objective,
    Place,
    Score,
    build_objective,
    register,
    to_grid,
)
from gim_audio.model.objectives.classify import Classify, Units
from gim_audio.model.objectives.infonce import Hinge, InfoNCE
from gim_audio.model.objectives.spectra import Spectra
from gim_audio.model.objectives.vicreg import VICReg

__all__ = [
    "Classify",
    "Hinge",
    "InfoNCE",
    "Objective",
    "Place",
    "Score",
    "Spectra",
    "Units",
    "VICReg",
    "build_objective",
    "register",
    "to_grid",
]
