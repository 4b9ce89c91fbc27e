"""Optimal transport: distances, geodesics, speed limits, the speed-accuracy relation."""

from entropix.transport.accuracy import SpeedAccuracy as SpeedAccuracy
from entropix.transport.accuracy import speed_accuracy as speed_accuracy
from entropix.transport.deviation import GeodesicDeviation as GeodesicDeviation
from entropix.transport.deviation import geodesic_deviation as geodesic_deviation
from entropix.transport.gaussian import bures_geodesic as bures_geodesic
from entropix.transport.gaussian import bures_wasserstein as bures_wasserstein
from entropix.transport.interpolation import (
    displacement_interpolation as displacement_interpolation,
)
from entropix.transport.null import WassersteinNull as WassersteinNull
from entropix.transport.null import wasserstein_null as wasserstein_null
from entropix.transport.sinkhorn import sinkhorn_divergence as sinkhorn_divergence
from entropix.transport.sliced import sliced_wasserstein as sliced_wasserstein
from entropix.transport.speed_limit import speed_limit as speed_limit
from entropix.transport.speed_result import SpeedLimit as SpeedLimit
from entropix.transport.wasserstein import Wasserstein as Wasserstein
from entropix.transport.wasserstein import wasserstein as wasserstein
