"""Dynamics by Diffrax: the forward SDE, the reverse SDE, the probability flow; and samplers."""

from entropix.dynamics.coordinates import ReverseCoordinates as ReverseCoordinates
from entropix.dynamics.divergence import Divergence as Divergence
from entropix.dynamics.forward import forward_times as forward_times
from entropix.dynamics.forward import solve_forward as solve_forward
from entropix.dynamics.multimodal import JointDDIM as JointDDIM
from entropix.dynamics.reverse import solve_flow as solve_flow
from entropix.dynamics.reverse import solve_reverse as solve_reverse
from entropix.dynamics.sample import sample as sample
from entropix.dynamics.samplers import DDIM as DDIM
from entropix.dynamics.samplers import DPMSolver as DPMSolver
from entropix.dynamics.samplers import EDMHeun as EDMHeun
from entropix.dynamics.samplers import PredictorCorrector as PredictorCorrector
from entropix.dynamics.settings import check_times as check_times
from entropix.dynamics.solve import Trajectory as Trajectory
from entropix.dynamics.solvers import GridBrownianPath as GridBrownianPath
from entropix.dynamics.tokens import FirstHitting as FirstHitting
from entropix.dynamics.tokens import TauLeaping as TauLeaping
