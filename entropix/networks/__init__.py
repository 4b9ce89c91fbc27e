"""Plain networks, `(log_snr, y, condition) -> array of y's shape`, independent of any process."""

from entropix.networks.condition_dropout import ConditionDropout as ConditionDropout
from entropix.networks.dit import DiT as DiT
from entropix.networks.gaussian_residual import GaussianPlusResidual as GaussianPlusResidual
from entropix.networks.images import Flattened as Flattened
from entropix.networks.latent_condition import LatentCondition as LatentCondition
from entropix.networks.linear_skip import LinearSkip as LinearSkip
from entropix.networks.mlp import FourierMLP as FourierMLP
from entropix.networks.paper import PaperConvNet as PaperConvNet
from entropix.networks.paper import PaperMLP as PaperMLP
from entropix.networks.parameters import Fixed as Fixed
from entropix.networks.parameters import NetworkSize as NetworkSize
from entropix.networks.parameters import network_size as network_size
from entropix.networks.parameters import trainable as trainable
from entropix.networks.residual_mlp import ResidualMLP as ResidualMLP
from entropix.networks.tokens import TokenTransformer as TokenTransformer
from entropix.networks.unet import UNet as UNet
