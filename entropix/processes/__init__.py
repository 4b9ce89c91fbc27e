"""Forward processes and their schedules: immutable modules, every number in them differentiable."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
