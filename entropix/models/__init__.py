"""Models: a network and a process with one interface, and the exact model of a distribution."""

from entropix.models.adapters import DenoiserAdapter as DenoiserAdapter
from entropix.models.adapters import from_denoiser as from_denoiser
from entropix.models.adapters import highest_log_snr as highest_log_snr
from entropix.models.denoisers import DenoiserPrediction as DenoiserPrediction
from entropix.models.denoisers import EDMPrediction as EDMPrediction
from entropix.models.denoisers import VPrediction as VPrediction
from entropix.models.exact import ExactModel as ExactModel
from entropix.models.flow_matching import FlowMatching as FlowMatching
from entropix.models.gaussian_part import GaussianPart as GaussianPart
from entropix.models.guided import Guided as Guided
from entropix.models.isotropic import isotropic as isotropic
from entropix.models.moved import noise_limits as noise_limits
from entropix.models.network_model import AbstractNetworkModel as AbstractNetworkModel
from entropix.models.network_model import call_network as call_network
from entropix.models.network_model import check_parts as check_parts
from entropix.models.parametrisations import EntropyMatching as EntropyMatching
from entropix.models.parametrisations import NoisePrediction as NoisePrediction
from entropix.models.parametrisations import ScoreMatching as ScoreMatching
from entropix.models.parametrisations import VelocityPrediction as VelocityPrediction
from entropix.models.pipelines import from_diffusers as from_diffusers
from entropix.models.pytorch import TorchFunction as TorchFunction
from entropix.models.reference_variance import reference_variance as reference_variance
from entropix.models.scaling import GaussianScaling as GaussianScaling
from entropix.models.tempered import Tempered as Tempered
