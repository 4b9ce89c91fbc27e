"""Log densities by `sbgm`, of a mixture whose score is known.

Needs `sbgm` and the releases it pins, not entropix: the runner starts it with their interpreter.
A problem as JSON on standard input; one line of JSON out: for each method log densities, seconds,
and evaluations of the score.
"""

import json
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import sbgm
from sbgm.sde import VPSDE


# (name, step, exact divergence, probes)
METHODS = (
    ("Tsit5, step 0.1, exact", 0.1, True, None),
    ("Tsit5, step 0.01, exact", 0.01, True, None),
    ("Tsit5, step 0.01, 10 probes", 0.01, False, 10),
)
STAGES = 6  # of Tsit5, whose last is the first of the next step


def beta_integral(t):
    """Of beta from 0.1 to 16."""
    return 0.1 * t + 15.9 / 2 * t**2


class Score(eqx.Module):
    """The score of the diffused mixture."""

    weights: jax.Array
    means: jax.Array
    variances: jax.Array

    def __call__(self, t, x, q=None, a=None):
        fade = jnp.exp(-beta_integral(t))
        spread = fade * self.variances - jnp.expm1(-beta_integral(t))
        away = x - jnp.sqrt(fade) * self.means
        scores = jnp.log(self.weights) - 0.5 * jnp.sum(away**2 / spread + jnp.log(spread), -1)
        return -jax.nn.softmax(scores) @ (away / spread)


def main() -> None:
    """Solve the problem on standard input."""
    problem = json.load(sys.stdin)
    arrays = [jnp.array(problem[name]) for name in ("weights", "means", "variances")]
    model = Score(arrays[0] / arrays[0].sum(), *arrays[1:])
    x = jnp.array(problem["points"])
    keys = jax.random.split(jax.random.PRNGKey(0), x.shape[0])
    results = {}
    for name, step, exact, probes in METHODS:
        one = sbgm.ode.get_log_likelihood_fn(
            model,
            VPSDE(beta_integral, dt=step),
            data_shape=x.shape[1:],
            exact_log_prob=exact,
            n_eps=probes,
        )
        run = jax.jit(jax.vmap(lambda x, key, one=one: one(x, None, None, key)))
        jax.block_until_ready(run(x, keys))
        seconds = []
        for _ in range(problem["rounds"]):
            begin = time.perf_counter()
            values = jax.block_until_ready(run(x, keys))
            seconds.append(time.perf_counter() - begin)
        results[name] = {
            "log_prob": values.tolist(),
            "seconds": min(seconds),
            "evaluations": STAGES * round(1 / step),
            "products": x.shape[1] if exact else probes,
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
