r"""The likelihood of tokens by the chain rule, in random orders.

A model under masking gives the law of each masked token, given those that are not masked. The chain
rule needs no more: for any order $\sigma$ of the D sites

$$\log p_\sigma(x) = \sum_{t=1}^D\log p_\theta(x_{\sigma_t}|x_{\sigma_1}\dots x_{\sigma_{t-1}})$$

is the logarithm of a normalised law (Uria, Murray, Larochelle, 1310.1757; Hoogeboom et al.,
2110.02037).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer
from entropix._core.chunks import in_chunks, unchunk
from entropix.interfaces import (
    AbstractDensityMethod,
    AbstractModel,
    AbstractTokenProcess,
    SampleEstimates,
)


# The relative error of a sum of evaluations, in units of the rounding of one number.
_ROUNDING = 8.0


class AnyOrder(AbstractDensityMethod):
    r"""$E_\sigma[\log p_\sigma(x)]$ by the chain rule, for models under `Masking`.

    For the exact model it is $\log p(x)$ in any order. The conditional laws of a trained network
    need not be those of one joint law, and the orders then differ. Their mean is what `PathBound`
    estimates: a lower bound on $\log E_\sigma[p_\sigma(x)]$, the likelihood of what `FirstHitting`
    generates, which exceeds it by half the variance over orders to leading order. The standard
    error is the spread over orders, and shows how inconsistent the network is; it vanishes with
    the inconsistency, unlike that of `PathBound`.

    Args:
        num_orders: random orders for each sample, at least 2. Each costs D evaluations.

    Raises:
        ValueError: if `num_orders` is smaller, or the model is not one under `Masking`.

    Example:
        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> table = jnp.log(jnp.array([[0.45, 0.05], [0.05, 0.45]]))
        >>> model = ex.models.ExactDiscrete(table, ex.Masking(2, ex.LinearSchedule()))
        >>> x = jnp.array([[0.0, 0.0], [0.0, 1.0]])
        >>> found = ex.log_prob(model, x, key=jax.random.key(0), method=ex.density.AnyOrder(2))
        >>> print(jnp.exp(found.value))
        [0.45 0.05]

    References:
        Uria, Murray, Larochelle, 1310.1757, equation 8; Hoogeboom et al., 2110.02037, equation 3.
    """

    num_orders: int = eqx.field(static=True)

    def __init__(self, num_orders: int = 4):
        self.num_orders = positive_integer(num_orders, "num_orders", 2)

    def evaluate(
        self,
        model: AbstractModel,
        x: Float[Array, "n *shape"],
        *,
        prior: object,
        condition: PyTree,
        cutoff: Array | None,
        key: Key | None,
        chunk_size: int,
    ) -> SampleEstimates:
        del prior, cutoff  # all tokens are masked at the end
        process = model.process
        if not isinstance(process, AbstractTokenProcess) or not process.has_mask:
            raise ValueError(
                f"`model` must be one under Masking for AnyOrder(), got {type(process).__name__}."
            )
        if key is None:
            raise ValueError("`key` must be given for AnyOrder, got None.")
        value, stderr = _by_orders(model, x, condition, key, self.num_orders, chunk_size)
        return SampleEstimates(value, stderr, self.num_orders * x[0].size)


@eqx.filter_jit
def _by_orders(
    model: AbstractModel, x: Array, condition: PyTree, key: Key, orders: int, chunk: int
) -> tuple[Array, Array]:
    """Means over orders and their errors; each evaluation is one step of one order."""
    process, length = model.process, x[0].size
    s = process.time_of_log_snr(jnp.zeros((), x.dtype))  # the conditional laws have no time

    def drawn(which: Array) -> Array:
        return jax.random.permutation(jax.random.fold_in(key, which), length)

    sites = jax.vmap(drawn)(jnp.arange(x.shape[0] * orders))
    ranks = jnp.argsort(sites, axis=1)

    def one(place: Array) -> Array:
        which, step = place // length, place % length
        tokens, given = x[which // orders], jax.tree.map(lambda c: c[which // orders], condition)
        site, seen = sites[which, step], ranks[which] < step
        y = jnp.where(seen.reshape(tokens.shape), tokens, float(process.num_tokens))
        field = model.entropy_field(s, y, given).reshape(length, -1)[site]
        return field[tokens.reshape(-1)[site].astype(int)] - jnp.log(process.num_tokens)

    count = x.shape[0] * orders * length
    logs = in_chunks(lambda places, _: jax.vmap(one)(places), jnp.arange(count), count, chunk)
    found = jnp.sum(unchunk(logs, count).reshape(x.shape[0], orders, length), axis=-1)
    value, spread = jnp.mean(found, axis=1), jnp.std(found, axis=1, ddof=1) / orders**0.5
    rounding = _ROUNDING * jnp.finfo(x.dtype).eps * jnp.abs(value)
    return value, jax.lax.stop_gradient(jnp.hypot(spread, rounding))
