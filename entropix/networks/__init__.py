"""Plain networks, `(log_snr, y, condition) -> array of y's shape`, independent of any process."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
