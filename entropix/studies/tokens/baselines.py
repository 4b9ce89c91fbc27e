r"""What counting and packing find in sequences of tokens, on held-out data.

A Markov model of order k predicts a token from the k tokens before it, within the sequence. With
the numbers n of occurrences in the training data, and u(c) the number of different tokens that
follow the context c there (Witten and Bell, IEEE Trans. Inf. Theory 37, 1085 (1991)),

$$p_k(x|c) = \frac{n(c, x) + u(c)\,p_{k-1}(x|c')}{n(c) + u(c)}, \qquad p_{-1} = \frac1K,$$

c' being c without its first token. Near the start of a sequence the order is that of the tokens
there are, and $p_k = p_{k-1}$ where c is not in the training data. The marginals are the same with
the position as context: $(n(i, x) + u(i)\,p_0(x))/(n(i) + u(i))$.

The size of gzip and of xz is that which the held-out data add to packed training data.
"""

import gzip
import lzma
from collections.abc import Callable, Sequence

import numpy as np

from entropix.studies.study import Found
from entropix.studies.tokens.data import TokenData


ORDERS = 6
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 9, mtime=0),
    "xz": lzma.compress,
}
# The tokens of the training data that are counted, and that are packed, at most.
_COUNTED, _PACKED = 2**24, 2**23


def baseline_names(data: TokenData) -> list[str]:
    """The names of the baselines with probabilities, in the order of `measure_baselines`."""
    orders = range(min(ORDERS, data.dataset.dim - 1) + 1)
    return ["uniform", "marginals", *(f"Markov, order {k}" for k in orders)]


def measure_baselines(data: TokenData, count: int) -> Found:
    """-E log p on held-out data of what is listed above.

    Args:
        data: the sequences.
        count: the number of held-out sequences that are evaluated, the first ones.

    Returns:
        `baseline_log_prob` of each baseline and sequence, in nats; `baseline_bits`, bits per token
        and its standard error; and `compressed_bits` of gzip and xz.
    """
    held_out = data.held_out[:count].reshape(count, -1)
    by_order = markov_log_probs(
        data.training_texts, held_out, data.num_tokens, len(baseline_names(data)) - 3
    )
    train = data.train[: _COUNTED // data.dim].reshape(-1, data.dim)
    marginals = _log_marginals(train, held_out, data.num_tokens)
    values = np.stack([p.sum(axis=1) for p in (by_order[0], marginals, *by_order[1:])])
    bits = -values / (held_out.shape[1] * np.log(2))
    return {
        "baseline_log_prob": values,
        "baseline_bits": bits.mean(axis=1),
        "baseline_bits_stderr": bits.std(axis=1, ddof=1) / np.sqrt(count),
        "compressed_bits": np.array([_added_bits(data, pack) for pack in COMPRESSORS.values()]),
    }


def markov_log_probs(
    texts: Sequence[np.ndarray], held_out: np.ndarray, num_tokens: int, order: int
) -> np.ndarray:
    """Log-probabilities of each token of sequences, given those before it.

    Args:
        texts: whose tokens are counted.
        held_out: sequences, shape (n, D).
        num_tokens: K.
        order: the largest k.

    Returns:
        Shape (order + 2, n, D): uniform, then of the orders 0, 1, ...
    """
    sequences = [*_last(texts), *held_out]
    tokens = np.concatenate(sequences).astype(np.int64)
    place = np.concatenate([np.arange(len(s)) for s in sequences])
    counted = np.arange(len(tokens)) < len(tokens) - held_out.size
    p = np.full(len(tokens), 1 / num_tokens)
    context, found = np.zeros(len(tokens), np.int64), [np.log(p)]
    for k in range(order + 1):
        if k > 0:
            context = _numbered(context * num_tokens + np.roll(tokens, k))
        p = _smoothed(context, tokens, num_tokens, counted & (place >= k), place >= k, p)
        found.append(np.log(p))
    return np.stack(found)[:, -held_out.size :].reshape(-1, *held_out.shape)


def _last(texts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The last `_COUNTED` tokens of the texts."""
    kept, left = [], _COUNTED
    for text in reversed(texts):
        if left > 0:
            kept.append(text[-left:])
            left -= len(text)
    return kept[::-1]


def _log_marginals(train: np.ndarray, held_out: np.ndarray, num_tokens: int) -> np.ndarray:
    tokens = np.concatenate([train, held_out]).astype(np.int64)
    place = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape).reshape(-1)
    counted = np.arange(tokens.size) < train.size
    p, everywhere = np.full(tokens.size, 1 / num_tokens), np.ones(tokens.size, bool)
    for context in (np.zeros_like(place), place):
        p = _smoothed(context, tokens.reshape(-1), num_tokens, counted, everywhere, p)
    return np.log(p)[train.size :].reshape(held_out.shape)


def _smoothed(
    context: np.ndarray,
    tokens: np.ndarray,
    num_tokens: int,
    counted: np.ndarray,
    usable: np.ndarray,
    p: np.ndarray,
) -> np.ndarray:
    """The formula above for every token, whose probability at the order below is p."""
    pair = _numbered(context * num_tokens + tokens)
    of_pair = np.bincount(pair[counted], minlength=int(pair.max()) + 1)
    of_context = np.bincount(context[counted], minlength=int(context.max()) + 1)
    # One entry for each pair that occurs.
    first = np.unique(pair[counted], return_index=True)[1]
    different = np.bincount(context[counted][first], minlength=len(of_context))
    total = (of_context + different)[context]
    better = (of_pair[pair] + different[context] * p) / np.maximum(total, 1)
    return np.where(usable & (total > 0), better, p)


def _numbered(values: np.ndarray) -> np.ndarray:
    """The same partition, by numbers 0, 1, ..."""
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def _added_bits(data: TokenData, pack: Callable[[bytes], bytes]) -> float:
    """Bits per token that the held-out data add to the packed training data."""

    def packed(parts: Sequence[np.ndarray]) -> bytes:
        tokens = np.concatenate(parts)[-_PACKED:]
        if data.dataset.has_characters:
            return data.dataset.as_text(tokens[None])[0].encode()
        return tokens.tobytes()

    train, held_out = packed(data.training_texts), packed(data.held_out_texts)
    added = len(pack(train + held_out)) - len(pack(train))
    return 8 * added / sum(map(len, data.held_out_texts))
