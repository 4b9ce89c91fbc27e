"""Likelihoods, information, samples and training of models of tokens."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import entropix as ex
from tests.helpers import as_shipped
from tests.tokens.systems import exact, negentropy, random_joint, ring


def processes(num_tokens):
    return {
        "masking": ex.Masking(num_tokens, ex.LinearSchedule()),
        "uniform": ex.processes.UniformJumps(num_tokens, ex.LinearSchedule(2.0, 2.0)),
        "uniform to noise": ex.processes.UniformJumps(num_tokens, ex.processes.CosineSchedule()),
    }


@pytest.mark.slow  # evaluations of many sequences
def test_likelihood_bound_of_the_exact_model():
    """It is the likelihood, with an honest error for each sequence, also where tokens are left."""
    model = exact(random_joint(), processes(3)["uniform"])
    x = model.sample(256, key=jax.random.key(0))
    found = ex.log_prob(model, x, key=jax.random.key(1), method=ex.PathBound(256))
    standard = (found.value - model.log_prob(x)) / found.stderr
    assert abs(float(jnp.mean(standard))) < 0.3
    assert 0.8 < float(jnp.sqrt(jnp.mean(standard**2))) < 1.25


@pytest.mark.slow(reason="an integral over four models")
@pytest.mark.parametrize("form", ["denoising", "score"])
def test_total_correlation(form):
    """Against the marginals the same integral is the total correlation, in both forms."""
    table = random_joint()
    process = processes(3)["uniform"]  # exact models are moved to a schedule that ends in noise
    joint = exact(table, process)
    p = np.exp(table)
    marginals = [np.log(p.sum(axis=tuple({0, 1, 2} - {i}))) for i in range(3)]
    truth = negentropy(table) - sum(negentropy(table) for table in marginals)
    data = joint.sample(4000, key=jax.random.key(0))
    singles = [exact(marginal, process) for marginal in marginals]
    found = ex.total_correlation(joint, singles, data, key=jax.random.key(1), form=form)
    assert abs(float(found.sigmas_from(truth))) < 4
    assert float(found.stderr) < 0.2 * truth


@pytest.mark.parametrize(
    ("name", "solver", "num_steps"),
    [
        ("masking", ex.dynamics.FirstHitting(), 8),
        ("masking", ex.dynamics.TauLeaping(2), 8),
        ("uniform to noise", ex.dynamics.TauLeaping(2), 12),
        pytest.param("masking", None, 256, marks=pytest.mark.slow),
        pytest.param("uniform to noise", None, 96, marks=pytest.mark.slow),
    ],
)
def test_samples_have_the_joint_law(name, solver, num_steps):
    model = exact(random_joint(), processes(3)[name])
    options = {"num_samples": 6000, "num_steps": num_steps, "solver": solver}
    x = np.asarray(ex.sample(model, key=jax.random.key(0), **options), int)
    counts = np.zeros((3, 3, 3))
    np.add.at(counts, tuple(x.T), 1)
    expected = 6000 * np.exp(random_joint())
    # Of states that are met: some 26 degrees of freedom, mean 26, standard deviation 7.
    often = expected > 5
    assert np.sum((counts - expected)[often] ** 2 / expected[often]) < 60


@pytest.mark.slow(reason="trains a network")
@pytest.mark.parametrize("kind", ["MaskedDenoiser", "ScoreEntropy"])
def test_trained_on_a_ring(kind):
    masks = kind == "MaskedDenoiser"
    process = processes(2)["masking" if masks else "uniform to noise"]
    truth = exact(ring(4), process)
    data = truth.sample(4000, key=jax.random.key(0))
    network = ex.FourierMLP(4 * process.num_states, key=jax.random.key(1), widths=(32, 32))
    model = getattr(ex.models, kind)(network, process, shape=(4,))
    held_out = truth.sample(2000, key=jax.random.key(3))
    options = {"key": jax.random.key(4)}
    assert float(ex.neural_entropy(model, held_out, **options).value) < 1e-6  # nothing stored
    model = ex.fit(model, data, key=jax.random.key(2), steps=600, batch_size=128).model
    stored = ex.neural_entropy(model, held_out, **options)
    distance = ex.path_kl(model, truth, held_out, **options)
    assert abs(float(stored.value) / negentropy(ring(4)) - 1) < 0.1
    assert 0 < float(distance.value) < 0.03
    bound = ex.log_prob(model, held_out[:256], **options)
    gap = float(jnp.mean(truth.log_prob(held_out[:256]) - bound.value))
    error = float(jnp.sqrt(jnp.mean(bound.stderr**2)) / 16)
    assert abs(gap - float(distance.value)) < 4 * error  # the path KL is the gap of the bound


@pytest.mark.slow(reason="trains transformers")
@pytest.mark.parametrize("name", ["masking", "uniform to noise"])
def test_transformers_learn_laws_without_symmetry(name):
    """What differs from place to place as well: a sequence of masks has its own marginals."""
    process = processes(3)[name]
    truth = exact(random_joint(), process)
    network = ex.TokenTransformer(
        (3,),
        process.num_states,
        width=32,
        depth=2,
        heads=2,
        time_dependent=not process.has_mask,
        key=jax.random.key(1),
    )
    model = ex.MaskedDenoiser(network, process, shape=(3,))
    data, held_out = (truth.sample(8000, key=jax.random.key(i)) for i in (0, 3))
    options = {"key": jax.random.key(4), "num_evaluations": 4096}
    untrained = ex.neural_entropy(model, held_out, **options)
    assert float(untrained.value) < 1e-6  # nothing stored
    model = ex.fit(
        model,
        data,
        key=jax.random.key(2),
        steps=600,
        batch_size=64,
        learning_rate=optax.cosine_decay_schedule(3e-3, 600),
        loss=ex.training.TokenDenoising(num_draws=2),
    ).model
    stored = ex.neural_entropy(model, held_out, **options)
    distance = ex.path_kl(model, truth, held_out, **options)
    assert abs(float(stored.value) / negentropy(random_joint()) - 1) < 0.3
    assert 0 < float(distance.value) < 0.1


class Frequencies(eqx.Module):
    """The same row of logits everywhere."""

    row: jax.Array

    def __call__(self, log_snr, y, condition=None):
        return jnp.broadcast_to(self.row, y.shape)


@pytest.mark.slow(reason="two trainings")
def test_tokens_may_be_small_integers_of_a_large_vocabulary():
    """Training on uint16 is that on float32, and S_NN that of the marginals."""
    count = 2000
    process = ex.Masking(count, ex.LinearSchedule())
    data = np.array([[3, 1999], [1999, 3]], np.uint16)[np.arange(64) % 2]
    model = ex.MaskedDenoiser(Frequencies(jnp.zeros(count + 1)), process, shape=(2,))
    options = {"key": jax.random.key(0), "steps": 30, "batch_size": 4, "learning_rate": 1.0}
    fits = [
        ex.fit(model, tokens, loss=ex.training.TokenDenoising(2), **options)
        for tokens in (data, data.astype(np.float32))
    ]
    np.testing.assert_array_equal(fits[0].history.loss, fits[1].history.loss)
    stored = ex.neural_entropy(fits[0].model, data, key=jax.random.key(1), num_evaluations=256)
    assert float(stored.value) == pytest.approx(2 * np.log(count / 2), rel=0.1)


def test_what_is_refused():
    masking, uniform = processes(2)["masking"], processes(2)["uniform"]
    network = ex.FourierMLP(8, key=jax.random.key(0), widths=(4,))
    model = ex.models.ScoreEntropy(network, uniform, shape=(4,))
    key, x = jax.random.key(0), jnp.zeros((4, 4))
    with as_shipped():
        with pytest.raises(ValueError, match="`process` must be UniformJumps or TokenJumps"):
            ex.models.ScoreEntropy(network, masking, shape=(4,))
        with pytest.raises(ValueError, match="`process` must be UniformJumps of 2 tokens"):
            model.with_process(masking)
        with pytest.raises(ValueError, match="`process` must lose all tokens"):
            ex.kl_divergence(model, model, x, key=key)
        with pytest.raises(ValueError, match=r"`loss` must be None or TokenDenoising"):
            ex.fit(model, x, key=key, loss=ex.Denoising())
        with pytest.raises(ValueError, match=r"`solver` must be TauLeaping\(\) where"):
            ex.sample(model, key=key, num_samples=2, solver=ex.dynamics.FirstHitting())
        with pytest.raises(ValueError, match="`solver` must be TauLeaping"):
            ex.sample(model, key=key, num_samples=2, method="ode")
        with pytest.raises(ValueError, match="`model` must be one of a Gaussian process"):
            ex.speed_limit(model, x, key=key)
        with pytest.raises(ValueError, match="a model of tokens, which jump"):
            model.velocity(0.5, x[0])


@pytest.mark.parametrize("name", ["masking", "uniform to noise"])
def test_the_time_at_which_a_share_is_lost(name):
    process = processes(3)[name]
    shares = np.array([0.0, 1e-4, 0.3, 0.9, 1.0])
    times = process.time_of_lost(shares)
    np.testing.assert_allclose(process.lost(times), shares, rtol=1e-4)
    assert (times[0], times[-1]) == (process.t0, process.t1)
