"""Diffrax: samplers by the reverse SDE and by the probability flow."""

from entropix.dynamics.brownian import GridBrownianPath as GridBrownianPath
from entropix.dynamics.sample import sample as sample
