"""entropix: how much information a diffusion model stores, and what it costs.

The names that are used daily are here; everything else is reached through its subpackage, such as
`entropix.transport.schroedinger_bridge` or `entropix.interfaces.AbstractModel`.

All are imported when they are first used, so that a program waits for what it needs only. Type
checkers read the imports under `TYPE_CHECKING`.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from entropix import datasets as datasets
    from entropix import density as density
    from entropix import distributions as distributions
    from entropix import dynamics as dynamics
    from entropix import entropy as entropy
    from entropix import estimators as estimators
    from entropix import information as information
    from entropix import interfaces as interfaces
    from entropix import models as models
    from entropix import networks as networks
    from entropix import optimise as optimise
    from entropix import persistence as persistence
    from entropix import processes as processes
    from entropix import training as training
    from entropix import transport as transport
    from entropix._core import make_mesh as make_mesh
    from entropix.density import DenoisingError as DenoisingError
    from entropix.density import PathBound as PathBound
    from entropix.density import ProbabilityFlow as ProbabilityFlow
    from entropix.density import log_prob as log_prob
    from entropix.distributions import Empirical as Empirical
    from entropix.distributions import Gaussian as Gaussian
    from entropix.distributions import GaussianMixture as GaussianMixture
    from entropix.dynamics import sample as sample
    from entropix.dynamics import solve_flow as solve_flow
    from entropix.dynamics import solve_forward as solve_forward
    from entropix.dynamics import solve_reverse as solve_reverse
    from entropix.entropy import entropy_curve as entropy_curve
    from entropix.entropy import neural_entropy as neural_entropy
    from entropix.entropy import path_entropy as path_entropy
    from entropix.entropy import path_kl as path_kl
    from entropix.information import critical_times as critical_times
    from entropix.information import differential_entropy as differential_entropy
    from entropix.information import estimate_mutual_information as estimate_mutual_information
    from entropix.information import kl_divergence as kl_divergence
    from entropix.information import mutual_information as mutual_information
    from entropix.information import total_correlation as total_correlation
    from entropix.interfaces import DivergenceError as DivergenceError
    from entropix.interfaces import Estimate as Estimate
    from entropix.models import DenoiserPrediction as DenoiserPrediction
    from entropix.models import EntropyMatching as EntropyMatching
    from entropix.models import ExactModel as ExactModel
    from entropix.models import FlowMatching as FlowMatching
    from entropix.models import GaussianScaling as GaussianScaling
    from entropix.models import MaskedDenoiser as MaskedDenoiser
    from entropix.models import NoisePrediction as NoisePrediction
    from entropix.models import ScoreMatching as ScoreMatching
    from entropix.models import VelocityPrediction as VelocityPrediction
    from entropix.networks import DiT as DiT
    from entropix.networks import FourierMLP as FourierMLP
    from entropix.networks import TokenTransformer as TokenTransformer
    from entropix.networks import UNet as UNet
    from entropix.optimise import KineticAction as KineticAction
    from entropix.optimise import optimise_schedule as optimise_schedule
    from entropix.persistence import Checkpoint as Checkpoint
    from entropix.persistence import load as load
    from entropix.persistence import save as save
    from entropix.processes import CosinePath as CosinePath
    from entropix.processes import GaussianPath as GaussianPath
    from entropix.processes import Langevin as Langevin
    from entropix.processes import LinearSchedule as LinearSchedule
    from entropix.processes import Masking as Masking
    from entropix.processes import MonotoneSchedule as MonotoneSchedule
    from entropix.processes import RectifiedFlow as RectifiedFlow
    from entropix.processes import StraightLine as StraightLine
    from entropix.processes import SubVariancePreserving as SubVariancePreserving
    from entropix.processes import TimeChanged as TimeChanged
    from entropix.processes import VarianceExploding as VarianceExploding
    from entropix.processes import VariancePreserving as VariancePreserving
    from entropix.training import Denoising as Denoising
    from entropix.training import FlowLoss as FlowLoss
    from entropix.training import Holdout as Holdout
    from entropix.training import fit as fit
    from entropix.training import fit_ensemble as fit_ensemble
    from entropix.transport import bures_wasserstein as bures_wasserstein
    from entropix.transport import sinkhorn_divergence as sinkhorn_divergence
    from entropix.transport import speed_limit as speed_limit
    from entropix.transport import wasserstein as wasserstein


__version__ = "0.1.0"

_SUBPACKAGES = (
    "datasets",
    "density",
    "distributions",
    "dynamics",
    "entropy",
    "estimators",
    "information",
    "interfaces",
    "models",
    "networks",
    "optimise",
    "persistence",
    "processes",
    "training",
    "transport",
)
_NAMES = {
    "_core": ("make_mesh",),
    "density": (
        "DenoisingError",
        "PathBound",
        "ProbabilityFlow",
        "log_prob",
    ),
    "distributions": (
        "Empirical",
        "Gaussian",
        "GaussianMixture",
    ),
    "dynamics": (
        "sample",
        "solve_flow",
        "solve_forward",
        "solve_reverse",
    ),
    "entropy": (
        "entropy_curve",
        "neural_entropy",
        "path_entropy",
        "path_kl",
    ),
    "information": (
        "critical_times",
        "differential_entropy",
        "estimate_mutual_information",
        "kl_divergence",
        "mutual_information",
        "total_correlation",
    ),
    "interfaces": (
        "DivergenceError",
        "Estimate",
    ),
    "models": (
        "DenoiserPrediction",
        "EntropyMatching",
        "ExactModel",
        "FlowMatching",
        "GaussianScaling",
        "MaskedDenoiser",
        "NoisePrediction",
        "ScoreMatching",
        "VelocityPrediction",
    ),
    "networks": (
        "DiT",
        "FourierMLP",
        "TokenTransformer",
        "UNet",
    ),
    "optimise": (
        "KineticAction",
        "optimise_schedule",
    ),
    "persistence": (
        "Checkpoint",
        "load",
        "save",
    ),
    "processes": (
        "CosinePath",
        "GaussianPath",
        "Langevin",
        "LinearSchedule",
        "Masking",
        "MonotoneSchedule",
        "RectifiedFlow",
        "StraightLine",
        "SubVariancePreserving",
        "TimeChanged",
        "VarianceExploding",
        "VariancePreserving",
    ),
    "training": (
        "Denoising",
        "FlowLoss",
        "Holdout",
        "fit",
        "fit_ensemble",
    ),
    "transport": (
        "bures_wasserstein",
        "sinkhorn_divergence",
        "speed_limit",
        "wasserstein",
    ),
}
_SOURCES = {name: source for source, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _SOURCES:
        value = getattr(importlib.import_module(f"entropix.{_SOURCES[name]}"), name)
    elif name in _SUBPACKAGES or name in ("cli", "studies"):  # of an extra: not in `dir(entropix)`
        value = importlib.import_module(f"entropix.{name}")
    else:
        raise AttributeError(f"module 'entropix' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*_SUBPACKAGES, *_SOURCES))


__all__ = __dir__()  # pyright: ignore[reportUnsupportedDunderAll]
