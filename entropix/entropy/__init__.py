"""Entropy curves, neural entropy, total entropy production, path KL, and entropy along paths."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
