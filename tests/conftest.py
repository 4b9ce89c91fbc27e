"""What every test shares: one precision, few threads, checked types, reproducible keys."""

import importlib.metadata
import os
import pathlib
import shutil


# Set before jax is imported, and only where the caller has not chosen otherwise.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
# Two processes share the cores.
_threads = str(max(1, min(4, (os.cpu_count() or 1) // 2)))
for _name in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "PJRT_NPROC",  # the pool of XLA's CPU client
):
    os.environ.setdefault(_name, _threads)

# The tests are bound by compilation: leave out what makes compiled code fast, and optimise nothing
# but where a test asks for `optimised`. Worker processes inherit what is decided here.
_QUICK = [
    "--xla_backend_optimization_level=1",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
# An unknown flag aborts the process, and this one is gone in jaxlib 0.12.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _QUICK.append("--xla_cpu_use_fusion_emitters=false")
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = " ".join(_QUICK)
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Compiled programs are kept between runs and processes, in a folder that git ignores: the smallest
# too, which are many and the same in all files. Its size is limited here: with a limit in JAX, all
# of its entries are visited for each that is added.
_cache = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
if os.access(_cache.parent.parent, os.W_OK) and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_cache)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    # Two processes may meet at an entry: the program is compiled then.
    _ignored = [
        f"ignore:Error {do} persistent compilation:UserWarning" for do in ("reading", "writing")
    ]
    os.environ.setdefault("PYTHONWARNINGS", ",".join(_ignored))
    if _cache.exists() and sum(path.stat().st_size for path in _cache.iterdir()) > 800 * 10**6:
        shutil.rmtree(_cache)

from jaxtyping import install_import_hook  # noqa: E402


# Every annotation in the package is checked at run time. The hook must be in place before the
# first import of entropix; it stays for the whole run.
install_import_hook("entropix", "beartype.beartype")

import collections  # noqa: E402
import gc  # noqa: E402
import random  # noqa: E402
import zlib  # noqa: E402

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402


# Random seeds serve the tests of exact identities: each run tries new ones, and prints the
# one number that repeats it.
SEED = int(os.environ.get("ENTROPIX_TEST_SEED", random.SystemRandom().randrange(2**31)))
os.environ["ENTROPIX_TEST_SEED"] = str(SEED)  # worker processes share it

hypothesis.settings.register_profile(
    "entropix",
    deadline=None,  # the first example compiles
    max_examples=25,
    derandomize=True,  # the same examples in every run: a failure is never one of chance
    database=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("entropix")


# Processes of the grid whose programs are long to compile: they go through it with the slow tests.
HEAVY = {"path-learned", "path-learned-noise", "sl-warped", "subvp-warped"}


# Files that take minutes begin first, so that none of them runs last and alone.
LONG = {
    "test_bridge.py",
    "test_cli.py",
    "test_devices.py",
    "test_documentation.py",
    "test_examples.py",
    "test_images.py",
    "test_multi_process.py",
    "test_optimise.py",
    "test_quality.py",
    "test_recompilation.py",
    "test_solve.py",
    "test_speed_limit.py",
    "test_tables.py",
    "test_trained.py",
    "test_verdict.py",
}


# A slow test that goes through the grid of processes does so with some of them in each run: as many
# as this of those of one function, drawn by SEED. ENTROPIX_TEST_GRID=all takes all of them.
DRAWN = 3


@pytest.hookimpl(tryfirst=True)  # before the tests are selected by their marks
def pytest_collection_modifyitems(config, items):
    from tests.helpers import PROCESSES

    items.sort(key=lambda item: item.path.name not in LONG)
    grids = collections.defaultdict(list)
    for item in items:
        params = item.callspec.params.values() if hasattr(item, "callspec") else ()
        named = [value for value in params if isinstance(value, str) and value in PROCESSES]
        if HEAVY.intersection(named):
            item.add_marker(pytest.mark.slow)
        if named and item.get_closest_marker("slow"):
            grids[item.nodeid.partition("[")[0]].append(item)
    if os.environ.get("ENTROPIX_TEST_GRID") == "all" or any("::" in arg for arg in config.args):
        return
    draw = random.Random(SEED)
    left = {
        item.nodeid
        for name, grid in sorted(grids.items())
        for item in draw.sample(grid, max(len(grid) - DRAWN, 0))
    }
    items[:] = [item for item in items if item.nodeid not in left]


def pytest_report_header():
    precision = "float64" if jax.config.jax_enable_x64 else "float32"
    backend = jax.default_backend()
    return f"jax {jax.__version__} on {backend}, {precision}; ENTROPIX_TEST_SEED={SEED}"


@pytest.fixture
def getkey(request):
    """A function that returns a new key at each call; the sequence depends on SEED and the test.

    For identities that hold for any key. A statistical test fixes its own, `jax.random.key(0)`.
    """
    key = jax.random.key(SEED ^ zlib.crc32(request.node.nodeid.encode()))

    def next_key():
        nonlocal key
        key, subkey = jax.random.split(key)
        return subkey

    return next_key


@pytest.fixture
def x64():
    """Run one test in float64. Build its modules inside the test: arrays keep their dtype.

    The whole suite runs in float64 with JAX_ENABLE_X64=1 in the environment.
    """
    from tests.helpers import double  # not before the import hook is in place

    with double():
        yield


@pytest.fixture
def x32():
    """Run one test in float32 whatever the environment says: for tests of that precision."""
    from tests.helpers import single

    with single():
        yield


@pytest.fixture
def optimised():
    """For a test that mostly trains: programs twice as fast, compiled in thrice the time."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


# Compiled programs are kept from file to file, as most of the small ones are needed again. They are
# dropped when there are so many: a long run would otherwise hold gigabytes of them. To visit all
# objects takes a second by then; after other files, those that are new are visited.
MOST_PROGRAMS = 1000
_compiled = 0


@jax.monitoring.register_event_duration_secs_listener
def _count(event, duration_secs, **_):
    global _compiled
    _compiled += event == "/jax/core/compile/backend_compile_duration"


# Programs are made of many small objects, most of which stay.
gc.set_threshold(200_000, 50, 50)


def pytest_collection_finish():
    # What has been imported stays: the collector need not visit it again and again.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _release_memory():
    yield
    global _compiled
    if _compiled > MOST_PROGRAMS:
        jax.clear_caches()
        _compiled = 0
        gc.collect()
    else:
        gc.collect(1)
