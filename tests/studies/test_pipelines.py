"""`measure --model` of a diffusers pipeline; skipped where PyTorch is not installed."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import xarray

import entropix as ex
from entropix.cli import main
from entropix.studies.loaded import load_model


torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
SIDE, COUNT = 8, 40
WORDS = [
    *("--out", "out", "--evaluations", "256", "--density-evaluations", "16", "--samples", "8"),
    *("--sampling-steps", "2", "--held-out", "0.5", "--no-plots", "--quiet"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small pipelines with random weights, and images and their labels."""
    path = tmp_path_factory.mktemp("pipelines")
    torch.manual_seed(0)
    for name, channels, classes in (("grey", 1, None), ("classes", 1, 3), ("colours", 3, None)):
        network = diffusers.UNet2DModel(
            sample_size=SIDE,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            num_class_embeds=classes,
        )
        scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
        diffusers.DDPMPipeline(network, scheduler).save_pretrained(path / name)
    network = diffusers.UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=4,
    )
    network.save_pretrained(path / "text" / "unet")
    scheduler.save_pretrained(path / "text" / "scheduler")
    parts = {"unet": network, "scheduler": scheduler}
    index = {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    index = json.dumps({"_class_name": "StableDiffusionPipeline"} | index)
    (path / "text" / "model_index.json").write_text(index)
    rng = np.random.default_rng(0)
    np.save(path / "prompt.npy", rng.normal(size=(5, 6)))
    np.save(path / "narrow.npy", rng.normal(size=(5, 7)))
    images = rng.integers(0, 256, size=(COUNT, SIDE, SIDE)).astype(np.uint8)
    np.save(path / "levels.npy", images)
    np.save(path / "images.npy", (images / 127.5 - 1).astype(np.float32))
    np.save(path / "larger.npy", rng.uniform(-1, 1, (COUNT, 9, 9)).astype(np.float32))
    np.save(path / "colours.npy", rng.uniform(-1, 1, (COUNT, 3, SIDE, SIDE)).astype(np.float32))
    np.save(path / "labels.npy", np.arange(COUNT) % 3)
    return path


def measured(folder, data, model, *words):
    """The record of a measurement of one of the pipelines."""
    assert (
        main(["measure", str(folder / data), "--model", str(folder / model), *WORDS, *words]) == 0
    )
    with xarray.open_dataset("out/results.nc", engine="h5netcdf") as record:
        return record.load(), pathlib.Path("out/report.md").read_text()


@pytest.mark.slow  # every estimator is compiled, and PyTorch evaluates small batches
def test_a_pipeline(folder, tmp_path, monkeypatch):
    """S_NN is that of the library; its cut-off is the first step of the scheduler."""
    monkeypatch.chdir(tmp_path)
    record, report = measured(folder, "levels.npy", "grey", "--model-range", "-1", "1")
    assert record.attrs["cutoff"] == pytest.approx(0.01, rel=1e-3)
    assert "the least noise for which the network is defined" in report
    assert "[0, 255] of the data is [-1, 1] of the model" in report
    assert "a diffusers pipeline with a UNet2DModel" in report
    assert np.isfinite(record["bits_per_dim"]).all()
    images = (np.load(folder / "levels.npy")[:, None] + 0.5 - 128) / 127.5
    model = ex.models.from_diffusers(folder / "grey")
    other = ex.neural_entropy(
        model, images.astype(np.float32), key=jax.random.key(0), num_evaluations=512
    )
    error = np.hypot(float(other.stderr), float(record["neural_entropy_stderr"][0]))
    assert abs(float(record["neural_entropy"][0] - other.value)) < 4 * error


@pytest.mark.slow  # every estimator is compiled, and PyTorch evaluates small batches
def test_a_pipeline_of_classes(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = ["--condition", str(folder / "labels.npy")]
    record, report = measured(folder, "images.npy", "classes", *labels)
    assert record["class_neural_entropy"].dims == ("seed", "class")
    assert record["class"].values.tolist() == ["0", "1", "2"]
    # The classes are equally frequent: the mean of their entropies is that of the data.
    mean = record["class_neural_entropy"].mean()
    error = np.sqrt((record["class_neural_entropy_stderr"] ** 2).sum()) / 3
    error = np.hypot(error, record["neural_entropy_stderr"][0])
    assert abs(mean - record["neural_entropy"][0]) < 4 * error
    assert "cannot be evaluated without labels" in report
    assert "mutual_information" not in record


def test_an_embedding_and_a_precision(folder, tmp_path):
    """The embedding of a prompt from a file; in bfloat16 the field is nearly the same."""
    prompt = str(folder / "prompt.npy")
    fine = load_model(str(folder / "text"), None, prompt)
    rough = load_model(str(folder / "text"), "bfloat16", prompt)
    assert rough.text.endswith(f"UNet2DConditionModel in bfloat16, given the embedding {prompt}")
    s = fine.model.process.time_of_log_snr(fine.model.steps[500])
    y = jax.random.normal(jax.random.key(0), (1, SIDE, SIDE))
    values = [-loaded.model.process.std(s) * loaded.model.score(s, y) for loaded in (fine, rough)]
    network = diffusers.UNet2DConditionModel.from_pretrained(
        folder / "text" / "unet", low_cpu_mem_usage=False
    )
    size = np.sqrt(fine.model.process.scale(s) ** 2 + fine.model.process.var(s))
    with torch.inference_mode():
        expected = network(
            torch.from_numpy(np.array(y / size))[None],
            torch.tensor([500.0]),
            torch.from_numpy(np.load(prompt).astype(np.float32))[None],
        ).sample[0]
    np.testing.assert_allclose(values[0], expected, rtol=2e-3, atol=2e-3)
    assert 0 < np.max(np.abs(values[1] - values[0])) < 0.05
    # Derivatives of attention, of both kinds.
    total = jax.jit(lambda a: jax.numpy.sum(fine.model.score(s, a * y)))
    slope = (total(1.01) - total(0.99)) / 0.02
    for derivative in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(derivative(total))(1.0), slope, rtol=0.02)


def test_a_fingerprint_is_that_of_the_weights(folder, tmp_path):
    shutil.copytree(folder / "grey", tmp_path / "copy")
    before = load_model(str(tmp_path / "copy")).fingerprint
    assert before == load_model(str(folder / "grey")).fingerprint
    weights = tmp_path / "copy" / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert load_model(str(tmp_path / "copy")).fingerprint != before


REFUSED = {
    "levels": ("levels.npy", "grey", None, "got values in [0, 255]: `--model-range -1 1` rescales"),
    "another size": ("larger.npy", "grey", None, "(1, 9, 9), channels first, got a model of"),
    "another order": ("colours.npy", "colours", None, "say with `channels` which axis"),
    "no labels": ("images.npy", "classes", None, "class_labels should be provided"),
    "no classes": ("images.npy", "grey", "labels", "must take the labels of `condition`"),
    "no weights": ("images.npy", "copy", "weights", "must hold the unet"),
    "unknown prediction": ("images.npy", "copy", "prediction_type mystery", "predicts one of"),
    "a negative noise": ("images.npy", "copy", "beta_end -1", "alpha-bar falls from below"),
    "no steps": ("images.npy", "copy", "num_train_timesteps 1", "in two steps or more, got 1"),
    "steps in words": ("images.npy", "copy", 'num_train_timesteps "x"', "must hold the scheduler"),
    "a size in words": ("images.npy", "copy", 'sample_size "8"', "one or two positive integers"),
    "a channel in words": ("images.npy", "copy", 'in_channels "one"', "must hold the unet"),
    "not finite": ("images.npy", "copy", "nan", "not finite"),
    "no prompt": ("images.npy", "text", None, "`model_condition` must be given for a network"),
    "another prompt": (
        "images.npy",
        "text",
        "narrow.npy",
        "(tokens, 6), got shape (5, 7)",
    ),
    "no array": (
        "images.npy",
        "text",
        "text/model_index.json",
        "it is no array in the",
    ),
    "no file": ("images.npy", "text", "none.npy", "No such file or directory"),
    "no attention": ("images.npy", "grey", "prompt.npy", "`model_condition` must be None"),
    "precision": ("images.npy", "grey", "int8", "`model_precision` must be one of 'bfloat16'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_pipelines(folder, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    data, model, how, says = REFUSED[case]
    words = ["--channels", "last"] if data == "colours.npy" else []
    words += ["--condition", str(folder / "labels.npy")] if how == "labels" else []
    words += ["--model-condition", str(folder / how)] if "." in str(how) else []
    words += ["--model-precision", how] if how == "int8" else []
    where = folder / model
    if model == "copy":
        where = tmp_path / "copy"
        shutil.copytree(folder / "grey", where)
        spoil(where, how)
    assert main(["measure", str(folder / data), "--model", str(where), *WORDS, *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("entropix: error: ")
    assert says in err
    assert not pathlib.Path("out").exists()


def spoil(where, how):
    """Damage a pipeline."""
    if how == "weights":
        (where / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    elif " " in how:
        name, value = how.split()
        part, file = next(
            (json.loads(path.read_text()), path)
            for path in where.glob("*/*config.json")
            if name in path.read_text()
        )
        part[name] = json.loads(value) if value != "mystery" else value
        file.write_text(json.dumps(part))
    else:
        network = diffusers.UNet2DModel.from_pretrained(where / "unet", low_cpu_mem_usage=False)
        for parameter in network.parameters():
            parameter.data.fill_(float("nan"))
        network.save_pretrained(where / "unet")
