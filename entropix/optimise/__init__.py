"""Objectives of a schedule, their optimisation by gradient, and clocks in closed form."""

from entropix.optimise.optimise import OptimisedSchedule as OptimisedSchedule
from entropix.optimise.optimise import optimise_schedule as optimise_schedule
from entropix.optimise.posterior import posterior_curve as posterior_curve
from entropix.optimise.reparametrise import constant_speed as constant_speed
from entropix.optimise.sampling import EulerKL as EulerKL
from entropix.optimise.sampling import SamplerError as SamplerError
from entropix.optimise.speeds import EntropicTime as EntropicTime
from entropix.optimise.speeds import KineticAction as KineticAction
from entropix.optimise.speeds import ScoreOptimalLength as ScoreOptimalLength
from entropix.optimise.variance import EstimatorVariance as EstimatorVariance
