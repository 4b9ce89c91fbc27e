"""entropix: how much information a diffusion model stores, and what it costs.

`import entropix as ex` is all that most users need; the rooms are importable by name.
"""

from entropix import datasets as datasets
from entropix._core import Estimate as Estimate
from entropix.density import DenoisingError as DenoisingError
from entropix.density import Jarzynski as Jarzynski
from entropix.density import LogDensity as LogDensity
from entropix.density import PathBound as PathBound
from entropix.density import ProbabilityFlow as ProbabilityFlow
from entropix.density import log_prob as log_prob
from entropix.distributions import Empirical as Empirical
from entropix.distributions import Gaussian as Gaussian
from entropix.distributions import GaussianMixture as GaussianMixture
from entropix.dynamics import DDIM as DDIM
from entropix.dynamics import AbstractSampler as AbstractSampler
from entropix.dynamics import DPMSolver as DPMSolver
from entropix.dynamics import EDMHeun as EDMHeun
from entropix.dynamics import PredictorCorrector as PredictorCorrector
from entropix.dynamics import Trajectory as Trajectory
from entropix.dynamics import sample as sample
from entropix.dynamics import solve_flow as solve_flow
from entropix.dynamics import solve_forward as solve_forward
from entropix.dynamics import solve_reverse as solve_reverse
from entropix.entropy import AbstractDenoisingFunctional as AbstractDenoisingFunctional
from entropix.entropy import AbstractPathFunctional as AbstractPathFunctional
from entropix.entropy import ConditionalEntropy as ConditionalEntropy
from entropix.entropy import EntropyCurve as EntropyCurve
from entropix.entropy import EntropyProduction as EntropyProduction
from entropix.entropy import EntropyRates as EntropyRates
from entropix.entropy import FluctuationTheorem as FluctuationTheorem
from entropix.entropy import HousekeepingEntropy as HousekeepingEntropy
from entropix.entropy import MediumEntropy as MediumEntropy
from entropix.entropy import PathDivergence as PathDivergence
from entropix.entropy import PathEntropy as PathEntropy
from entropix.entropy import PathFunctional as PathFunctional
from entropix.entropy import SystemEntropy as SystemEntropy
from entropix.entropy import entropy_curve as entropy_curve
from entropix.entropy import entropy_rates as entropy_rates
from entropix.entropy import fluctuation_theorem as fluctuation_theorem
from entropix.entropy import neural_entropy as neural_entropy
from entropix.entropy import path_entropy as path_entropy
from entropix.entropy import path_functional as path_functional
from entropix.entropy import path_kl as path_kl
from entropix.entropy import path_log_ratio as path_log_ratio
from entropix.information import EntropicTime as EntropicTime
from entropix.information import (
    conditional_mutual_information as conditional_mutual_information,
)
from entropix.information import differential_entropy as differential_entropy
from entropix.information import entropic_time as entropic_time
from entropix.information import kl_divergence as kl_divergence
from entropix.information import mutual_information as mutual_information
from entropix.information import total_correlation as total_correlation
from entropix.models import EntropyMatching as EntropyMatching
from entropix.models import ExactModel as ExactModel
from entropix.models import GaussianScaling as GaussianScaling
from entropix.models import NoisePrediction as NoisePrediction
from entropix.models import ScoreMatching as ScoreMatching
from entropix.models import VelocityPrediction as VelocityPrediction
from entropix.networks import ConditionDropout as ConditionDropout
from entropix.networks import FourierMLP as FourierMLP
from entropix.networks import LatentCondition as LatentCondition
from entropix.networks import LinearSkip as LinearSkip
from entropix.processes import CosinePath as CosinePath
from entropix.processes import CosineSchedule as CosineSchedule
from entropix.processes import DoubleWell as DoubleWell
from entropix.processes import GaussianPath as GaussianPath
from entropix.processes import Harmonic as Harmonic
from entropix.processes import Langevin as Langevin
from entropix.processes import LinearSchedule as LinearSchedule
from entropix.processes import MuellerBrown as MuellerBrown
from entropix.processes import QuarticLattice as QuarticLattice
from entropix.processes import RectifiedFlow as RectifiedFlow
from entropix.processes import RotatingForce as RotatingForce
from entropix.processes import StraightLine as StraightLine
from entropix.processes import SubVariancePreserving as SubVariancePreserving
from entropix.processes import VarianceExploding as VarianceExploding
from entropix.processes import VariancePreserving as VariancePreserving
from entropix.training import EnsembleFit as EnsembleFit
from entropix.training import Fit as Fit
from entropix.training import History as History
from entropix.training import LocalDenoising as LocalDenoising
from entropix.training import LogisticTimes as LogisticTimes
from entropix.training import SlicedScoreMatching as SlicedScoreMatching
from entropix.training import UniformTimes as UniformTimes
from entropix.training import denoising_loss as denoising_loss
from entropix.training import fit as fit
from entropix.training import fit_ensemble as fit_ensemble
from entropix.training import load as load
from entropix.training import relative_denoising_loss as relative_denoising_loss
from entropix.training import save as save
from entropix.transport import SpeedLimit as SpeedLimit
from entropix.transport import Wasserstein as Wasserstein
from entropix.transport import bures_wasserstein as bures_wasserstein
from entropix.transport import sinkhorn_divergence as sinkhorn_divergence
from entropix.transport import speed_limit as speed_limit
from entropix.transport import wasserstein as wasserstein


__version__ = "0.1.0"
