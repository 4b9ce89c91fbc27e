"""One codec for saved models, checkpoints in a file and checkpoints over many devices."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
