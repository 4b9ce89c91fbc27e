"""The public interfaces: what a class of your own implements to go wherever the library's go.

Every class here is an interface: abstract methods state what differs, concrete methods state what
follows from them and are never overridden.
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
