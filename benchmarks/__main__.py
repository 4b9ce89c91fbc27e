"""Every benchmark, one after the other: `python -m benchmarks [NAME ...]`."""

import argparse
import importlib
import sys
import time

import jax


# From quick to slow. `information` trains networks and takes an hour: ask for it by name.
NAMES = (
    "imports",
    "first_use",
    "scaling",
    "step",
    "seeds",
    "sampling",
    "gradients",
    "divergence",
    "entropy",
    "density",
    "flow_steps",
    "transport",
    "training",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help=f"some of: {', '.join(NAMES)}")
    names = parser.parse_args().names
    sys.argv = sys.argv[:1]  # those with options of their own take their defaults
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {jax.device_count()} device(s)")
    for name in names:
        begin = time.perf_counter()
        print(f"\n# {name}\n", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()
        print(f"\n({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
