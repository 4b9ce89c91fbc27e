"""Optimal transport: distances, geodesics, speed limits, coupled flows, Schrödinger bridges."""

from entropix.transport.bridge import SchroedingerBridge as SchroedingerBridge
from entropix.transport.bridge import schroedinger_bridge as schroedinger_bridge
from entropix.transport.bridge_process import BridgeProcess as BridgeProcess
from entropix.transport.flow_action import FlowAction as FlowAction
from entropix.transport.flow_action import flow_action as flow_action
from entropix.transport.gaussian import GaussianBridge as GaussianBridge
from entropix.transport.gaussian import bures_geodesic as bures_geodesic
from entropix.transport.gaussian import bures_wasserstein as bures_wasserstein
from entropix.transport.geodesic import GeodesicDeviation as GeodesicDeviation
from entropix.transport.geodesic import displacement_interpolation as displacement_interpolation
from entropix.transport.geodesic import geodesic_deviation as geodesic_deviation
from entropix.transport.minibatch import MinibatchCoupling as MinibatchCoupling
from entropix.transport.quadrature import time_rule as time_rule
from entropix.transport.sinkhorn import sinkhorn_divergence as sinkhorn_divergence
from entropix.transport.sliced import sliced_wasserstein as sliced_wasserstein
from entropix.transport.speed_accuracy import SpeedAccuracy as SpeedAccuracy
from entropix.transport.speed_accuracy import speed_accuracy as speed_accuracy
from entropix.transport.speed_limit import SpeedLimit as SpeedLimit
from entropix.transport.speed_limit import speed_limit as speed_limit
from entropix.transport.static_bridge import StaticBridge as StaticBridge
from entropix.transport.static_bridge import static_bridge as static_bridge
from entropix.transport.unbiased_bound import unbiased_w2_bound as unbiased_w2_bound
from entropix.transport.wasserstein import Wasserstein as Wasserstein
from entropix.transport.wasserstein import WassersteinNull as WassersteinNull
from entropix.transport.wasserstein import wasserstein as wasserstein
from entropix.transport.wasserstein import wasserstein_null as wasserstein_null
