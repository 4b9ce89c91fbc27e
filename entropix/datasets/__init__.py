"""Embedded and file-based data: loading, validation, standardisation, dequantisation."""

from entropix.datasets.dataset import Dataset as Dataset
from entropix.datasets.embedded import available as available
from entropix.datasets.embedded import paper_mixture as paper_mixture
from entropix.datasets.loading import load as load
from entropix.datasets.normal_scores import NormalScores as NormalScores
from entropix.datasets.projection import Projection as Projection
from entropix.datasets.standardisation import Standardisation as Standardisation
from entropix.datasets.streams import stream as stream
from entropix.distributions import dequantise as dequantise
