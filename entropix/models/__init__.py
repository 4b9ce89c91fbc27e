"""Models: a network and a process with one interface, and the exact model of a distribution."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
