r"""Exact models of sequences of tokens: laws that are known, under the jump processes on tokens.

A law p enters by one function only, the evidence of independent weights on the sites,

$$\log p(y) = \log\sum_x p(x)\prod_i w_i(x_i), \qquad w_i(k) = p(y_i|x_i = k),$$

because its derivative in $\log w_i(k)$ is $p(x_i = k|y)$, from which follows the entropy field.
For a Markov chain the sum is the forward pass over the sites, and its derivative the backward pass
(Rabiner, 1989, equations 18 to 27).
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, as_float, one_hot
from entropix._core.checks import checked, on_host, positive_integer, samples
from entropix._core.chunks import in_chunks, map_in_chunks
from entropix._core.precision import matmul
from entropix.interfaces import AbstractPrior, AbstractTokenProcess
from entropix.models.tokens import AbstractTokenModel, check_token_process


# Sequences of an `ExactEmpirical` that are held as one-hot rows at once.
_BLOCK = 1024
# In place of log 0 in a product of matrices, where 0 times minus infinity would be NaN.
_IMPOSSIBLE = -1e30


class AbstractExactTokens(AbstractTokenModel):
    """The exact model of sequences of D tokens whose law is known."""

    is_exact: ClassVar[bool] = True
    process: AbstractVar[AbstractTokenProcess]
    shape: AbstractVar[tuple[int, ...]]

    @abc.abstractmethod
    def log_evidence(self, log_weights: Float[Array, "length num_tokens"]) -> Float[Array, ""]:
        r"""$\log\sum_x p(x)\prod_i w_i(x_i)$, for one array of $\log w_i(k)$."""

    @abc.abstractmethod
    def sample(self, n: int, *, key: Key) -> Float[Array, "n length"]:
        """Draw `n` independent sequences."""

    @abc.abstractmethod
    def log_prob(self, x: Float[Array, "*batch length"]) -> Float[Array, "*batch"]:
        r"""$\log p(x)$ in nats, exact."""

    @abc.abstractmethod
    def entropy(self) -> Float[Array, ""]:
        r"""$H = -\sum_x p(x)\log p(x)$ in nats, exact."""

    @property
    def prior(self) -> AbstractPrior:
        if self.process.ends_in_noise:
            return self.process.prior(self.shape)
        return DiffusedTokens(self)

    def with_process(self, process: AbstractTokenProcess) -> "AbstractExactTokens":
        number = self.process.num_tokens
        if check_token_process(process).num_tokens != number:
            raise ValueError(f"`process` must be one of {number} tokens, got {process.num_tokens}.")
        return eqx.tree_at(lambda model: model.process, self, process)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, " length"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "length num_tokens"]:
        if condition is not None:
            raise ValueError("`condition` must be None for an exact model: its law has none.")
        chance = jax.grad(self.log_evidence)(self.process.log_kernel(s, y))
        possible = chance > 0
        logs = jnp.log(jnp.where(possible, chance, 1.0))
        return self.process.field(s, y, jnp.where(possible, logs, -jnp.inf))


class DiffusedTokens(AbstractPrior):
    """The law of the tokens of an exact model at the end of its process."""

    model: AbstractExactTokens

    def sample(self, n: int, *, key: Key) -> Float[Array, "n *shape"]:
        token_key, noise_key = jax.random.split(key)
        process = self.model.process

        x = self.model.sample(n, key=token_key)
        kernel = process.log_states(process.t1, x)
        return jax.random.categorical(noise_key, kernel).astype(x.dtype)

    def log_prob(self, y: Float[Array, "*batch length"]) -> Float[Array, "*batch"]:
        model = self.model

        def one(y: Array) -> Array:
            return model.log_evidence(model.process.log_kernel(model.process.t1, y))

        return jnp.vectorize(one, signature="(d)->()")(y)


def _checked_weights(value: DataLike, name: str) -> Array:
    """Logarithms of weights, finite or minus infinity, but not minus infinity everywhere."""
    table = as_float(value, name)
    largest = jnp.max(on_host(table))
    allowed = "finite, or minus infinity for what is impossible but not everywhere"
    checked(largest, name, lambda v: abs(v) < float("inf"), allowed)
    return table


def _entropy_of(log_probs: Array) -> Array:
    possible = log_probs > -jnp.inf
    logs = jnp.where(possible, log_probs, 0.0)
    return -jnp.sum(jnp.where(possible, jnp.exp(logs), 0.0) * logs)


class ExactDiscrete(AbstractExactTokens):
    r"""The exact model of sequences of D tokens whose joint law is a table of $K^D$ numbers.

    $p(x_i = k|y)$ is a sum over the whole table, weighted by $\prod_i p(y_i|x_i)$. An evaluation
    costs $D\,K^D$ operations and the memory of one table: take a `chunk_size` to match for tables
    of more than a few thousand entries, and `ExactChain` for a long chain.

    Args:
        log_weights: logarithms of the probabilities, up to a common constant, shape (K,) * D; minus
            infinity for what is impossible.
        process: a process of K tokens, `Masking` for example.

    Raises:
        ValueError: if the table has another shape or no finite entry, or holds NaN or infinity.

    Example:
        Two spins that agree with probability 0.9 have an entropy of $\ln 2 + 0.325$ nats, and their
        process produces the rest of $2\ln 2$, 0.368 nats:

        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> table = jnp.log(jnp.array([[0.45, 0.05], [0.05, 0.45]]))
        >>> model = ex.models.ExactDiscrete(table, ex.Masking(2, ex.LinearSchedule()))
        >>> data = model.sample(4000, key=jax.random.key(0))
        >>> entropy = ex.neural_entropy(model, data, key=jax.random.key(1))
        >>> bool(abs(entropy.value - 0.368) < 4 * entropy.stderr)
        True
    """

    log_weights: Float[Array, "..."]
    process: AbstractTokenProcess
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, log_weights: DataLike, process: AbstractTokenProcess):
        self.process = check_token_process(process)
        table = as_float(log_weights, "log_weights")
        sizes = (process.num_tokens,) * max(table.ndim, 1)
        if table.shape != sizes:
            raise ValueError(
                f"`log_weights` must have as many entries along each axis as the process has "
                f"tokens, {process.num_tokens}, got shape {table.shape}."
            )
        table = _checked_weights(table, "log_weights")
        self.log_weights = table - logsumexp(table)
        self.shape = (table.ndim,)

    def log_evidence(self, log_weights: Float[Array, "length num_tokens"]) -> Float[Array, ""]:
        joint, length = self.log_weights, log_weights.shape[0]
        for site in range(length):
            joint = joint + log_weights[site].reshape(-1, *(1,) * (length - 1 - site))
        return logsumexp(joint)

    def sample(self, n: int, *, key: Key) -> Float[Array, "n length"]:
        return _cells(self.log_weights, key, n)

    def log_prob(self, x: Float[Array, "*batch length"]) -> Float[Array, "*batch"]:
        tokens = as_float(x, "x").astype(int)
        return self.log_weights[tuple(jnp.moveaxis(tokens, -1, 0))]

    def entropy(self) -> Float[Array, ""]:
        return _entropy_of(self.log_weights)


@eqx.filter_jit
def _cells(table: Array, key: Key, n: int) -> Array:
    """Site by site, given those before: the memory of n tokens and not of n tables."""
    sites: tuple[Array, ...] = ()
    for i, site_key in enumerate(jax.random.split(key, table.ndim)):
        laws = logsumexp(table, axis=tuple(range(i + 1, table.ndim)))[sites]
        shape = (n, table.shape[i])
        sites += (jax.random.categorical(site_key, jnp.broadcast_to(laws, shape)),)
    return jnp.stack(sites, axis=-1).astype(table.dtype)


class ExactChain(AbstractExactTokens):
    r"""The exact model of a chain, or a ring, of tokens in which neighbours are coupled.

    $$p(x) = \frac1Z\prod_{i=1}^D e^{h_i(x_i)}\prod_{i=1}^{D-1} e^{J(x_i, x_{i+1})}$$

    and on a ring the factor $e^{J(x_D, x_1)}$. An evaluation costs $D\,K^2$ operations, on a ring
    $D\,K^3$, for any length. `ExactChain.markov` takes an initial law and a transition matrix;
    without couplings the tokens are independent.

    Args:
        log_fields: h, shape (D, K); minus infinity for what is impossible.
        log_couplings: J, shape (K, K), minus infinity for what is impossible; None for none.
        process: a process of K tokens, `Masking` for example.
        periodic: whether the last token is coupled to the first.

    Raises:
        ValueError: if an argument is not as above, or no sequence is possible.

    Example:
        A ring of 64 spins, of which each pair of neighbours has the energy -0.5 or 0.5:

        >>> import jax.numpy as jnp, entropix as ex
        >>> couplings = 0.5 * jnp.array([[1.0, -1.0], [-1.0, 1.0]])
        >>> process = ex.Masking(2, ex.LinearSchedule())
        >>> model = ex.models.ExactChain(jnp.zeros((64, 2)), couplings, process, periodic=True)
        >>> print(f"{model.entropy() / 64:.4f} nats per spin")
        0.5822 nats per spin

    References:
        Rabiner, Proc. IEEE 77, 257 (1989); Baxter, Exactly Solved Models (1982), section 2.1.
    """

    log_fields: Float[Array, "length num_tokens"]
    log_couplings: Float[Array, "num_tokens num_tokens"] | None
    process: AbstractTokenProcess
    periodic: bool = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        log_fields: DataLike,
        log_couplings: DataLike | None,
        process: AbstractTokenProcess,
        *,
        periodic: bool = False,
    ):
        self.process = check_token_process(process)
        number = process.num_tokens
        fields = _checked_weights(log_fields, "log_fields")
        if fields.ndim != 2 or fields.shape[1] != number:
            raise ValueError(
                f"`log_fields` must have shape (D, {number}), got shape {fields.shape}."
            )
        self.log_couplings = None
        if log_couplings is not None:
            self.log_couplings = _checked_weights(log_couplings, "log_couplings")
            if self.log_couplings.shape != (number, number):
                raise ValueError(
                    f"`log_couplings` must have shape ({number}, {number}), got shape "
                    f"{self.log_couplings.shape}."
                )
        self.periodic = bool(periodic)
        self.shape = (fields.shape[0],)
        total = _log_sum((fields, self.log_couplings), self.periodic)
        allowed = "such that at least one sequence is possible"
        checked(total, "log_fields", lambda v: abs(v) < float("inf"), allowed)
        self.log_fields = fields - total / fields.shape[0]

    @staticmethod
    def markov(
        initial: DataLike, transition: DataLike, process: AbstractTokenProcess, *, length: int
    ) -> "ExactChain":
        r"""A Markov chain, $p(x) = p_1(x_1)\prod_i P(x_i, x_{i+1})$.

        Args:
            initial: $p_1$, shape (K,).
            transition: P, shape (K, K), whose rows add up to one.
            process: a process of K tokens.
            length: D.

        Raises:
            ValueError: if an argument is not as above.
        """
        length = positive_integer(length, "length")
        laws = as_float(initial, "initial"), as_float(transition, "transition")
        number = process.num_tokens
        for name, law, shape in zip(
            ("initial", "transition"), laws, ((number,), (number, number)), strict=True
        ):
            if law.shape != shape:
                raise ValueError(f"`{name}` must have shape {shape}, got {law.shape}.")
            allowed = "probabilities that add up to one"
            checked(
                law, name, lambda v: (v >= 0) & (abs(v.sum(-1, keepdims=True) - 1) < 1e-4), allowed
            )
        first, rows = (jnp.log(law) for law in laws)
        fields = jnp.concatenate(
            [first[None], jnp.zeros((length - 1, first.shape[0]), first.dtype)]
        )
        return ExactChain(fields, rows, process)

    def log_evidence(self, log_weights: Float[Array, "length num_tokens"]) -> Float[Array, ""]:
        return _log_sum((self.log_fields + log_weights, self.log_couplings), self.periodic)

    def sample(self, n: int, *, key: Key) -> Float[Array, "n length"]:
        return _chains(self.log_fields, self.log_couplings, self.periodic, key, n)

    def log_prob(self, x: Float[Array, "*batch length"]) -> Float[Array, "*batch"]:
        tokens = as_float(x, "x").astype(int)
        rows = jnp.arange(self.log_fields.shape[0])
        total = jnp.sum(self.log_fields[rows, tokens], axis=-1)
        if self.log_couplings is None:
            return total
        after = jnp.roll(tokens, -1, axis=-1)
        bonds = self.log_couplings[tokens, after]
        return total + jnp.sum(bonds if self.periodic else bonds[..., :-1], axis=-1)

    def entropy(self) -> Float[Array, ""]:
        # -E log p, where log p is linear in h and J, whose means are derivatives of log Z.
        weights = (self.log_fields, self.log_couplings)
        means = jax.grad(_log_sum)(weights, self.periodic)
        terms = jax.tree.map(lambda w, p: jnp.sum(jnp.where(p > 0, w, 0.0) * p), weights, means)
        return -jnp.sum(jnp.stack(jax.tree.leaves(terms)))


def _finite(top: Array) -> Array:
    """The largest number, a constant for derivatives, or zero where nothing is possible."""
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))


@eqx.filter_jit
def _log_sum(weights: tuple[Array, Array | None], periodic: bool) -> Array:
    """Log Z, by a pass over the sites whose scales are constants for derivatives.

    The derivative then consists of positive terms alone, and nothing cancels in it.
    """
    fields, couplings = weights
    if couplings is None:
        return jnp.sum(logsumexp(fields, axis=-1))
    tops = _finite(jnp.max(fields, axis=-1, keepdims=True))
    sites, strength = jnp.exp(fields - tops), _finite(jnp.max(couplings))
    bonds = jnp.exp(couplings - strength)
    # On a ring a row for each token of the first site.
    first = jnp.diag(sites[0]) if periodic else sites[:1]

    def step(paths: Array, site: Array) -> tuple[Array, Array]:
        paths = matmul(paths, bonds) * site
        top = jax.lax.stop_gradient(jnp.max(paths))
        top = jnp.where(top > 0, top, 1.0)
        return paths / top, jnp.log(top)

    paths, scales = jax.lax.scan(step, first, sites[1:])
    last = jnp.sum(paths * bonds.T) if periodic else jnp.sum(paths)
    count = fields.shape[0] if periodic else fields.shape[0] - 1
    return jnp.log(last) + jnp.sum(scales) + jnp.sum(tops) + count * strength


@eqx.filter_jit
def _chains(fields: Array, couplings: Array | None, periodic: bool, key: Key, n: int) -> Array:
    """Sequences drawn from the first site to the last, given what is still to come."""
    if couplings is None:
        return jax.random.categorical(key, fields, shape=(n, fields.shape[0])).astype(fields.dtype)
    weights = jnp.exp(fields - _finite(jnp.max(fields, axis=-1, keepdims=True)))
    bonds = jnp.exp(couplings - _finite(jnp.max(couplings)))

    def back(rest: Array, weight: Array) -> tuple[Array, Array]:
        rest = matmul(bonds, weight[:, None] * rest)
        rest = rest / jnp.max(rest)
        return rest, rest

    # On a ring a column for each token of the first site.
    last = bonds if periodic else jnp.ones_like(bonds[:, :1])
    _, earlier = jax.lax.scan(back, last, weights[1:], reverse=True)
    rest = jnp.concatenate([earlier, last[None]])
    start = jnp.log(weights[0] * (jnp.diagonal(rest[0]) if periodic else rest[0, :, 0]))
    coming = jnp.log(weights[..., None] * rest)

    def one(key: Key) -> Array:
        keys = jax.random.split(key, fields.shape[0])
        first = jax.random.categorical(keys[0], start)
        column = first if periodic else 0

        def draw(token: Array, args: tuple[Array, Array]) -> tuple[Array, Array]:
            key, coming = args
            token = jax.random.categorical(key, jnp.log(bonds[token]) + coming[:, column])
            return token, token

        _, others = jax.lax.scan(draw, first, (keys[1:], coming[1:]))
        return jnp.append(first, others)

    return jax.vmap(one)(jax.random.split(key, n)).astype(fields.dtype)


class ExactEmpirical(AbstractExactTokens):
    r"""The exact model of a finite set of sequences: what a network that memorises them learns.

    $p(x) = \frac1N\sum_n\delta_{x x_n}$. An evaluation costs $N\,D\,K$ operations and the memory of
    a thousand sequences. The entropy is $\ln N$ if all differ, and that of the process is finite:
    unlike continuous data, tokens have an entropy.

    Args:
        points: sequences, shape (N, D), of integers from 0 to K - 1.
        process: a process of K tokens, `Masking` for example.

    Raises:
        ValueError: if an argument is not as above.

    Example:
        >>> import jax.numpy as jnp, entropix as ex
        >>> points = jnp.array([[0, 1, 1], [1, 0, 0], [0, 1, 1], [1, 1, 1]])
        >>> model = ex.models.ExactEmpirical(points, ex.Masking(2, ex.LinearSchedule()))
        >>> print(f"{model.entropy():.4f}")
        1.0397
    """

    points: Float[Array, "n length"]
    log_weights: Float[Array, " n"]
    process: AbstractTokenProcess
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, points: DataLike, process: AbstractTokenProcess):
        self.process = check_token_process(process)
        points = samples(points, "points", minimum=1)
        host = np.asarray(on_host(points))
        if (
            host.ndim != 2
            or np.any((host != np.floor(host)) | (host < 0))
            or not np.all(host < process.num_tokens)
        ):
            raise ValueError(
                f"`points` must be integers from 0 to {process.num_tokens - 1} of shape (N, D), "
                f"got shape {host.shape}, from {host.min():g} to {host.max():g}."
            )
        different, counts = np.unique(host, axis=0, return_counts=True)
        self.points = as_float(different, "points")
        self.log_weights = as_float(np.log(counts / counts.sum()), "points")
        self.shape = (host.shape[1],)

    def log_evidence(self, log_weights: Float[Array, "length num_tokens"]) -> Float[Array, ""]:
        site_weights = jnp.maximum(log_weights, _IMPOSSIBLE).reshape(-1)

        def block(args: tuple[Array, Array], counted: Array) -> tuple[Array, Array]:
            points, own = args
            rows = one_hot(points, log_weights.shape[1]).reshape(points.shape[0], -1)
            logs = matmul(rows, site_weights)
            possible = (logs > _IMPOSSIBLE / 2) & (counted > 0)
            logs = jnp.where(possible, logs + own, -jnp.inf)
            top = _finite(jnp.max(logs))
            return jnp.sum(jnp.exp(logs - top)), jnp.where(jnp.any(possible), top, -jnp.inf)

        arguments = (self.points, self.log_weights)
        sums, tops = in_chunks(block, arguments, self.points.shape[0], _BLOCK)
        top = _finite(jnp.max(tops))
        return jnp.log(jnp.sum(sums * jnp.exp(tops - top))) + top

    def sample(self, n: int, *, key: Key) -> Float[Array, "n length"]:
        return _rows(self.points, self.log_weights, key, n)

    def log_prob(self, x: Float[Array, "*batch length"]) -> Float[Array, "*batch"]:
        x = as_float(x, "x")
        own = jnp.log(one_hot(x.reshape(-1, *self.shape), self.process.num_tokens))
        return jax.lax.map(self.log_evidence, own).reshape(x.shape[:-1])

    def entropy(self) -> Float[Array, ""]:
        return _entropy_of(self.log_weights)


@eqx.filter_jit
def _rows(points: Array, log_weights: Array, key: Key, n: int) -> Array:
    keys = jax.random.split(key, n)
    index = map_in_chunks(lambda k: jax.random.categorical(k, log_weights), keys, _BLOCK)
    return points[index]
