"""Diffrax: samplers by the reverse SDE and by the probability flow; others without it."""

from entropix.dynamics.brownian import GridBrownianPath as GridBrownianPath
from entropix.dynamics.forward import solve_forward as solve_forward
from entropix.dynamics.reverse import solve_flow as solve_flow
from entropix.dynamics.reverse import solve_reverse as solve_reverse
from entropix.dynamics.sample import sample as sample
from entropix.dynamics.samplers import DDIM as DDIM
from entropix.dynamics.samplers import AbstractSampler as AbstractSampler
from entropix.dynamics.samplers import DPMSolver as DPMSolver
from entropix.dynamics.samplers import EDMHeun as EDMHeun
from entropix.dynamics.samplers import PredictorCorrector as PredictorCorrector
from entropix.dynamics.trajectory import Trajectory as Trajectory
