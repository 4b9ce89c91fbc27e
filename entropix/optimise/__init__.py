"""Objectives of a schedule, their optimisation by gradient, and clocks in closed form."""

from entropix.optimise.cost import ScheduleCost as ScheduleCost
from entropix.optimise.cost import schedule_cost as schedule_cost
from entropix.optimise.few_steps import FewStepError as FewStepError
from entropix.optimise.few_steps import FewStepSampler as FewStepSampler
from entropix.optimise.few_steps import equilibrium_std as equilibrium_std
from entropix.optimise.few_steps import uniform_levels as uniform_levels
from entropix.optimise.objectives import EntropicTime as EntropicTime
from entropix.optimise.objectives import EstimatorVariance as EstimatorVariance
from entropix.optimise.objectives import EulerKL as EulerKL
from entropix.optimise.objectives import KineticAction as KineticAction
from entropix.optimise.objectives import SamplerError as SamplerError
from entropix.optimise.objectives import ScoreOptimalLength as ScoreOptimalLength
from entropix.optimise.objectives import step_times as step_times
from entropix.optimise.optimise import OptimisedSchedule as OptimisedSchedule
from entropix.optimise.optimise import optimise_schedule as optimise_schedule
from entropix.optimise.posterior import posterior_curve as posterior_curve
from entropix.optimise.reparametrise import constant_speed as constant_speed
from entropix.optimise.unmasking import UnmaskingError as UnmaskingError
