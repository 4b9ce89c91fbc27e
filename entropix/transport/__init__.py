"""Optimal transport: distances, geodesics, speed limits, coupled flows, Schroedinger bridges."""

from entropix.transport.accuracy import SpeedAccuracy as SpeedAccuracy
from entropix.transport.accuracy import speed_accuracy as speed_accuracy
from entropix.transport.bridge import schroedinger_bridge as schroedinger_bridge
from entropix.transport.bridge_process import BridgeProcess as BridgeProcess
from entropix.transport.bridge_result import SchroedingerBridge as SchroedingerBridge
from entropix.transport.deviation import GeodesicDeviation as GeodesicDeviation
from entropix.transport.deviation import geodesic_deviation as geodesic_deviation
from entropix.transport.flow_action import FlowAction as FlowAction
from entropix.transport.flow_action import flow_action as flow_action
from entropix.transport.gaussian import bures_geodesic as bures_geodesic
from entropix.transport.gaussian import bures_wasserstein as bures_wasserstein
from entropix.transport.gaussian_bridge import GaussianBridge as GaussianBridge
from entropix.transport.interpolation import (
    displacement_interpolation as displacement_interpolation,
)
from entropix.transport.minibatch import MinibatchCoupling as MinibatchCoupling
from entropix.transport.null import WassersteinNull as WassersteinNull
from entropix.transport.null import wasserstein_null as wasserstein_null
from entropix.transport.sinkhorn import sinkhorn_divergence as sinkhorn_divergence
from entropix.transport.sliced import sliced_wasserstein as sliced_wasserstein
from entropix.transport.speed_limit import speed_limit as speed_limit
from entropix.transport.speed_result import SpeedLimit as SpeedLimit
from entropix.transport.static_bridge import StaticBridge as StaticBridge
from entropix.transport.static_bridge import static_bridge as static_bridge
from entropix.transport.unbiased_bound import unbiased_w2_bound as unbiased_w2_bound
from entropix.transport.wasserstein import Wasserstein as Wasserstein
from entropix.transport.wasserstein import wasserstein as wasserstein
