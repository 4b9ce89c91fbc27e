"""Forward processes and their schedules: immutable modules, every number in them differentiable."""

from entropix.processes.checks import check_example_shape as check_example_shape
from entropix.processes.checks import check_one_kind as check_one_kind
from entropix.processes.curves import UnitCurve as UnitCurve
from entropix.processes.langevin import Langevin as Langevin
from entropix.processes.moving import RectifiedFlow as RectifiedFlow
from entropix.processes.moving import SubVariancePreserving as SubVariancePreserving
from entropix.processes.moving import VarianceExploding as VarianceExploding
from entropix.processes.multimodal import Multimodal as Multimodal
from entropix.processes.path import GaussianPath as GaussianPath
from entropix.processes.path import LearnablePath as LearnablePath
from entropix.processes.potentials import DoubleWell as DoubleWell
from entropix.processes.potentials import Harmonic as Harmonic
from entropix.processes.potentials import MuellerBrown as MuellerBrown
from entropix.processes.potentials import QuarticLattice as QuarticLattice
from entropix.processes.potentials import RotatingForce as RotatingForce
from entropix.processes.schedules import CosineSchedule as CosineSchedule
from entropix.processes.schedules import LinearSchedule as LinearSchedule
from entropix.processes.schedules import MonotoneSchedule as MonotoneSchedule
from entropix.processes.static import CosinePath as CosinePath
from entropix.processes.static import StraightLine as StraightLine
from entropix.processes.static import VariancePreserving as VariancePreserving
from entropix.processes.time_change import MonotoneWarp as MonotoneWarp
from entropix.processes.time_change import TimeChanged as TimeChanged
from entropix.processes.token_jumps import TokenJumps as TokenJumps
from entropix.processes.token_jumps import UniformJumps as UniformJumps
from entropix.processes.tokens import Masking as Masking
