"""Helpers of every subpackage: array types, conversion, argument checks, chunks, devices."""

from entropix._core.mesh import make_mesh as make_mesh
