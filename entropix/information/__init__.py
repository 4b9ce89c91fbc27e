"""Information between data sets, variables and conditions, from the fields of models."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
