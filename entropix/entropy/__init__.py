"""Entropy curves, neural entropy, total entropy production, path KL, and entropy along paths."""

from entropix.entropy.curve import EntropyProduction as EntropyProduction
from entropix.entropy.curve import entropy_curve as entropy_curve
from entropix.entropy.curve import neural_entropy as neural_entropy
from entropix.entropy.decomposition import EntropyRates as EntropyRates
from entropix.entropy.decomposition import entropy_rates as entropy_rates
from entropix.entropy.fluctuation import FluctuationTheorem as FluctuationTheorem
from entropix.entropy.fluctuation import fluctuation_theorem as fluctuation_theorem
from entropix.entropy.functionals import ConditionalEntropy as ConditionalEntropy
from entropix.entropy.functionals import HousekeepingEntropy as HousekeepingEntropy
from entropix.entropy.functionals import MediumEntropy as MediumEntropy
from entropix.entropy.functionals import PathDivergence as PathDivergence
from entropix.entropy.functionals import PathFunctional as PathFunctional
from entropix.entropy.functionals import SystemEntropy as SystemEntropy
from entropix.entropy.girsanov import path_log_ratio as path_log_ratio
from entropix.entropy.path_entropy import PathEntropy as PathEntropy
from entropix.entropy.path_entropy import path_entropy as path_entropy
from entropix.entropy.path_functional import path_functional as path_functional
from entropix.entropy.path_kl import path_kl as path_kl
from entropix.estimators import EntropyCurve as EntropyCurve
