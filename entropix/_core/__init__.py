"""Private helpers of all subpackages: array types, conversion, checks, chunks, devices."""

from entropix._core.mesh import make_mesh as make_mesh
