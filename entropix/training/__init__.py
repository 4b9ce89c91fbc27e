"""Losses, time proposals, training with checkpoints, and saving of models."""

from entropix.training.fit import fit as fit
from entropix.training.fit import fit_ensemble as fit_ensemble
from entropix.training.history import EnsembleFit as EnsembleFit
from entropix.training.history import Fit as Fit
from entropix.training.history import History as History
from entropix.training.losses import denoising_loss as denoising_loss
from entropix.training.losses import relative_denoising_loss as relative_denoising_loss
from entropix.training.path_losses import AbstractPathLoss as AbstractPathLoss
from entropix.training.path_losses import LocalDenoising as LocalDenoising
from entropix.training.path_losses import SlicedScoreMatching as SlicedScoreMatching
from entropix.training.save import load as load
from entropix.training.save import save as save
from entropix.training.stream import AbstractStream as AbstractStream
from entropix.training.times import AbstractTimes as AbstractTimes
from entropix.training.times import LogisticTimes as LogisticTimes
from entropix.training.times import UniformTimes as UniformTimes
