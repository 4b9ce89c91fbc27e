"""Optimal transport: distances between samples and Gaussians, and speed limits."""

from entropix.transport.gaussian import bures_wasserstein as bures_wasserstein
from entropix.transport.sinkhorn import sinkhorn_divergence as sinkhorn_divergence
from entropix.transport.speed_limit import speed_limit as speed_limit
from entropix.transport.speed_result import SpeedLimit as SpeedLimit
from entropix.transport.wasserstein import Wasserstein as Wasserstein
from entropix.transport.wasserstein import wasserstein as wasserstein
