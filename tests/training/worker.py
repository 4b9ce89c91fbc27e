"""One process of a training run over several: `python worker.py JSON`."""

import json
import os
import signal
import sys


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    import jax

    jax.config.update("jax_platforms", "cpu")
    if given["processes"] > 1:
        jax.distributed.initialize(
            f"localhost:{given['port']}", given["processes"], given["process"]
        )

    import jax.numpy as jnp
    import numpy as np

    import entropix as ex
    from tests.training.common import gaussian_data, parameters
    from tests.training.test_ensemble import maker

    def stop(step, metrics):
        if step == given["kill_at"] and given["process"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    data = gaussian_data()
    options = {"steps": 20, "batch_size": 8, "loss": ex.Denoising(2), "callback": stop}
    options |= {"holdout": ex.Holdout(data[:4], every=4)}
    options |= {"mesh": ex.make_mesh(seed=given["seed"])}
    if given["folder"]:
        where = given["folder"]
        kind = ex.persistence.ShardedCheckpoint if given["sharded"] else ex.Checkpoint
        where += "" if given["sharded"] else ".ckpt"
        options |= {"checkpoint": kind(where, every=4, resume=True)}
    keys = jax.random.split(jax.random.key(0), given["members"])
    fits = ex.fit_ensemble(maker(data), data, keys=keys, **options)
    single = ex.fit(
        maker(data)(keys[0]), data, key=keys[0], steps=8, batch_size=8, loss=ex.Denoising(2)
    )
    with jax.set_mesh(options["mesh"]):
        entropy = fits.map(
            lambda model: ex.neural_entropy(model, data, key=keys[0], num_evaluations=512)
        )
    record = fits.record(entropy=entropy)
    fits = fits.gathered()
    arrays = jax.tree.leaves((parameters(fits.member(2)), parameters(single.model)))
    flat = jnp.concatenate([jnp.ravel(a) for a in arrays])
    np.savez(
        f"{given['out']}-{given['process']}.npz",
        params=flat,
        loss=record["loss"],
        holdout=record["holdout_loss"],
        entropy=record["entropy"],
    )
