"""Models with a velocity but no score: accepted and rejected uses."""

import jax
import jax.numpy as jnp
import pytest

import entropix as ex
from tests.helpers import PROCESSES, as_shipped
from tests.models.flows import straight_flow


X = jnp.linspace(-1.0, 1.0, 16)[:, None]
KEY = jax.random.key(0)
REFUSED = {
    "score": lambda m: m.score(0.5, X[0]),
    "entropy_field": lambda m: m.entropy_field(0.5, X[0]),
    "neural_entropy": lambda m: ex.neural_entropy(m, X, key=KEY, num_evaluations=256),
    "neural_entropy, cut off": lambda m: ex.neural_entropy(m, X, key=KEY, cutoff=0.1),
    "entropy_curve": lambda m: ex.entropy_curve(m, X, key=KEY, num_evaluations=256),
    "path_kl": lambda m: ex.path_kl(m, m, X, key=KEY, num_evaluations=256),
    "entropy_rates": lambda m: ex.entropy.entropy_rates(m, X, key=KEY),
    "speed_limit": lambda m: ex.speed_limit(m, X, key=KEY),
    "solve_reverse": lambda m: ex.solve_reverse(m, X, key=KEY),
    "PathBound": lambda m: ex.log_prob(m, X, key=KEY),
    "Jarzynski": lambda m: ex.log_prob(m, X, key=KEY, method=ex.density.Jarzynski()),
    "DenoisingError": lambda m: ex.log_prob(m, X, key=KEY, method=ex.DenoisingError()),
    "path_log_ratio": lambda m: ex.entropy.path_log_ratio(m, X, key=KEY),
    "denoising_loss": lambda m: ex.training.denoising_loss(m, 0.5, X[0], X[0]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_score_no_entropy(name):
    with pytest.raises(ValueError, match="must have a score"):
        REFUSED[name](straight_flow())


def test_no_reverse_sde():
    model = straight_flow()
    with pytest.raises(ValueError, match="'ode'"):
        ex.sample(model, key=KEY, num_samples=2)
    with pytest.raises(ValueError, match="`solver`"):
        ex.sample(model, key=KEY, num_samples=2, method="ode", solver=ex.dynamics.DDIM())
    with pytest.raises(ValueError, match="`process`"):
        model.with_process(ex.CosinePath())


@pytest.mark.parametrize("name", PROCESSES)
def test_processes(name):
    """The noise must be proportional to time at s = 0: sqrt(s) has an infinite velocity."""
    process = PROCESSES[name]()
    smooth = ("rf", "cosine", "vp-cosine", "path-trig", "path-module")
    if name.startswith("subvp") or name in smooth:
        ex.FlowMatching(straight_flow().network, process)
    else:
        with as_shipped(), pytest.raises(ValueError, match="`process`"):
            ex.FlowMatching(straight_flow().network, process)


def test_velocity_and_storage(tmp_path):
    model = ex.FlowMatching(ex.FourierMLP(2, key=KEY, widths=(8,)), ex.RectifiedFlow())
    assert model.shape == (2,)
    assert model.prior.sample(3, key=KEY).shape == (3, 2)
    y = jnp.ones(2)
    ends = jnp.stack([model.velocity(s, y) for s in (0.0, 1.0)])
    assert bool(jnp.all(jnp.isfinite(ends)))
    ex.save(tmp_path / "flow", model)
    loaded = ex.load(tmp_path / "flow")
    assert bool(jnp.all(loaded.velocity(0.3, y) == model.velocity(0.3, y)))
