"""Log densities by facebook's `flow_matching`, of a mixture whose velocity is known.

Needs `flow_matching`, torch and tqdm, not entropix: the runner starts it with their interpreter.
A problem as JSON on standard input; one line of JSON out: for each method log densities, seconds,
and evaluations of the velocity.
"""

import json
import sys
import time

import torch
from flow_matching.solver import ODESolver


# (name, solver of torchdiffeq, step, exact divergence)
METHODS = (
    ("dopri5, exact", "dopri5", None, True),
    ("dopri5, Hutchinson", "dopri5", None, False),
    ("midpoint, 0.02, exact", "midpoint", 0.02, True),
    ("euler, 0.02, exact", "euler", 0.02, True),
)


class Velocity(torch.nn.Module):
    """E[x1 - x0 | x_t] for x_t = t x1 + (1 - t) x0, x1 from the mixture and x0 standard normal."""

    def __init__(self, weights, means, variances):
        super().__init__()
        self.weights, self.means, self.variances = weights, means, variances
        self.evaluations = 0

    def forward(self, x, t):
        self.evaluations += 1
        spread = t**2 * self.variances + (1 - t) ** 2  # (components, dim)
        away = x[:, None, :] - t * self.means
        scores = self.weights.log() - 0.5 * (away**2 / spread + spread.log()).sum(-1)
        slope = (t * self.variances - (1 - t)) / spread
        each = self.means + slope * away
        return (scores.softmax(-1)[..., None] * each).sum(1)


def main() -> None:
    """Solve the problem on standard input."""
    problem = json.load(sys.stdin)
    torch.manual_seed(0)
    tensors = [torch.tensor(problem[name]) for name in ("weights", "means", "variances")]
    x = torch.tensor(problem["points"])
    field = Velocity(tensors[0] / tensors[0].sum(), *tensors[1:])
    solver = ODESolver(field)
    normal = torch.distributions.Normal(0.0, 1.0)
    results = {}
    for name, method, step, exact in METHODS:

        def run(method=method, step=step, exact=exact):
            return solver.compute_likelihood(
                x,
                lambda z: normal.log_prob(z).sum(-1),
                step_size=step,
                method=method,
                exact_divergence=exact,
            )[1]

        run()
        field.evaluations, seconds = 0, []
        for _ in range(problem["rounds"]):
            begin = time.perf_counter()
            values = run()
            seconds.append(time.perf_counter() - begin)
        results[name] = {
            "log_prob": values.tolist(),
            "seconds": min(seconds),
            "evaluations": field.evaluations / problem["rounds"],
            "products": x.shape[1] if exact else 1,
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
