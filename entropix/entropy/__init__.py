"""Entropy curves, neural entropy, total entropy production and path KL."""

from entropix.entropy.curve import EntropyCurve as EntropyCurve
from entropix.entropy.curve import entropy_curve as entropy_curve
from entropix.entropy.curve import neural_entropy as neural_entropy
from entropix.entropy.path_kl import path_kl as path_kl
