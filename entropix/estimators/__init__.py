"""What all integrals over noise levels share: axis, Gaussian reference, proposal, two passes."""

from entropix.estimators.axis import LogSNRAxis as LogSNRAxis
from entropix.estimators.axis import check_cutoff as check_cutoff
from entropix.estimators.axis import log_snr_of_std as log_snr_of_std
from entropix.estimators.denoising import error_difference as error_difference
from entropix.estimators.ends import EndRates as EndRates
from entropix.estimators.ends import check_ends as check_ends
from entropix.estimators.ends import end_points as end_points
from entropix.estimators.ends import judge_ends as judge_ends
from entropix.estimators.ends import judge_sizes as judge_sizes
from entropix.estimators.ends import num_end_points as num_end_points
from entropix.estimators.ends import resolved_points as resolved_points
from entropix.estimators.integral import EntropyCurve as EntropyCurve
from entropix.estimators.integral import all_exact as all_exact
from entropix.estimators.integral import check_divergence as check_divergence
from entropix.estimators.integral import integrate as integrate
from entropix.estimators.integral import rates_along as rates_along
from entropix.estimators.proposal import Proposal as Proposal
from entropix.estimators.proposal import learn_proposal as learn_proposal
from entropix.estimators.reference import DenoisingControl as DenoisingControl
from entropix.estimators.reference import EntropyControl as EntropyControl
from entropix.estimators.reference import GaussianReference as GaussianReference
from entropix.estimators.reference import reference_of as reference_of
