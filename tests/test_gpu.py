"""Training, evaluation and every verb on a pretended GPU: no tensor is left behind in the processor's memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chain_runs import make_data, write_recipe
from command import succeed
from pretend_gpu import GPU, pretend_gpu
from test_contracts import (
    ADAPTERS,
    ENCODERS,
    LOADER,
    OBJECTIVES,
    RATE,
    TASKS,
    adapted,
    batch_maker,
    inputs,
    tiny_encoder,
    tiny_objective,
    tiny_task,
)

from audiossl import registry
from audiossl.data.loader import make_loader
from audiossl.train.distributed import World
from audiossl.train.loop import TrainConfig, train
from audiossl.train.optim import OptimConfig
from audiossl.train.sums import to_device

ALONE = World(0, 1, GPU)
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # of the processor's kernel


def with_one_encoder(pairs):
    """Each plug-in once: where an encoder leaves its tensors is seen by itself."""
    return list({name: (name, encoder) for name, encoder in pairs}.values())


def test_a_pretended_gpu_refuses_what_a_real_one_does():
    with pretend_gpu():
        layer, waveform = torch.nn.Linear(3, 2).to("cuda"), torch.randn(4, 3)
        with pytest.raises(RuntimeError, match="same device"):
            layer(waveform)
        output = layer(waveform.to("cuda:0"))
        output.square().sum().backward()
        assert output.device == layer.weight.grad.device == torch.zeros_like(output).device == GPU
        assert (output * torch.tensor(2.0)).device == output[torch.tensor([1])].device == GPU
        assert output.cpu().device == torch.zeros(2).device == torch.device("cpu")
        for refused in (
            lambda: torch.stack([output, waveform[:, :2]]),
            lambda: waveform[torch.arange(2, device=GPU)],
            lambda: torch.randn(2) * output.sum(),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                refused()
        for refused in (output.detach().numpy, lambda: np.asarray(output.detach())):
            with pytest.raises(TypeError, match="numpy"):
                refused()


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_on_a_gpu(name):
    encoder = tiny_encoder(name)
    with pretend_gpu():
        encoder.to(GPU)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            output = encoder(*(part.to(GPU) for part in inputs(encoder)))
        assert {layer.device for layer in output.layers} == {output.lengths.device} == {GPU}
        output.layers[-1].float().sum().backward()
        assert {p.grad.device for p in encoder.parameters() if p.grad is not None} == {GPU}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "encoder"), with_one_encoder(OBJECTIVES))
def test_objective_trains_on_a_gpu(tmp_path, name, encoder):
    def run(steps, *, resume=False):
        module, manifest = tiny_objective(name, encoder, tmp_path / "corpus")
        return train(
            module,
            lambda own: make_loader(manifest, module, LOADER, sample_rate=RATE, seed=0, positions=own),
            experiment=tmp_path / "exp",
            config=TrainConfig(max_steps=steps, save_every=2, tensorboard=False),
            optim=OptimConfig(peak_lr=1e-3),
            world=ALONE,
            sample_rate=RATE,
            resume=resume,
        )

    with pretend_gpu():
        run(2)
        assert np.isfinite(run(3, resume=True)["loss"])


@pytest.mark.parametrize("name", ["hubert", "wav2vec2", "ccc_wav2vec2", "unispeech_sat", "mert", "best_rq"])
def test_a_step_hardly_waits_for_the_gpu(tmp_path, name):
    module, manifest = tiny_objective(name, "wavlm", tmp_path / "corpus")
    with pretend_gpu() as gpu:
        batch = to_device(batch_maker(module.to(GPU), manifest)[0], GPU)
        module(batch).loss_sum.backward()
        module.after_step(1)
    assert gpu.waits <= 1  # whether all utterances are of one length


@pytest.mark.parametrize(("name", "encoder"), ADAPTERS)
def test_adapter_on_a_gpu(name, encoder):
    _, model = adapted(name, encoder)
    with pretend_gpu():
        model.to(GPU)(*(part.to(GPU) for part in inputs(model)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "encoder"), with_one_encoder(TASKS))
def test_task_learns_and_predicts_on_a_gpu(tmp_path, name, encoder):
    module, manifest = tiny_task(registry.get("tasks", name), encoder, tmp_path / "corpus")
    with pretend_gpu():
        module.to(GPU)
        batch = to_device(batch_maker(module, manifest)[0], GPU)
        module(batch).loss_sum.backward()
        module.eval()
        predictions = dict(zip(batch["utt_ids"], module.predict(batch), strict=True))
        assert sorted(predictions) == sorted(batch["utt_ids"])


def cuda(*words):
    return succeed(*words, "--device", "cuda")


@pytest.mark.slow
def test_the_chain_on_a_gpu(tmp_path):
    train, dev = make_data(tmp_path / "train", 24), make_data(tmp_path / "dev", 8, seed=1)
    exp = tmp_path / "exp"
    places = ("--data", train, "--dev", dev)
    short = [
        "--train.max_steps",
        "2",
        "--train.tensorboard",
        "false",
        "--data.num_workers",
        "0",
        "--data.batch_seconds",
        "2",
    ]
    with pretend_gpu():
        cuda("pretrain", write_recipe(tmp_path), *places, "--out", exp)
        cuda("units", "fit", "--data", train, "--out", tmp_path / "km", "--encoder", exp, "--layer", 1, "--clusters", 5)
        cuda("units", "apply", "--data", train, dev, "--codebook", tmp_path / "km", "--name", "l1")
        for recipe in ("ctc_full", "ctc_lora"):
            cuda("finetune", recipe, "--init", exp, *places, "--out", tmp_path / recipe, *short)
            cuda("transcribe", tmp_path / recipe, dev, "--beam", 2)
        tests = ("--train", train, "--dev", dev, "--test", dev, "--out", tmp_path / "probe")
        cuda("probe", exp, "--task", "keyword", *tests, "--probe.steps", 3, "--num-workers", 0)
        cuda("embed", exp, dev, "--out", tmp_path / "embeddings", "--crops", 2, "--crop-duration", 0.2)
        cuda("features", exp, dev, "--out", tmp_path / "features", "--layer", "all", "--dtype", "float16")
        cuda("diagnose", exp, "--data", train, "--out", tmp_path / "diagnosis")


@pytest.mark.slow
def test_superb_on_a_gpu(tmp_path):
    pytest.importorskip("espeakng_loader", reason="needs the extra `synth`")
    data = tmp_path / "data"
    succeed("prep", "superb_mini", "--out", data, "--prep.scale", 0.02, "--prep.tasks", '["all"]')
    common = "--superb.steps 2 --superb.eval_every 2 --superb.accumulate 1 --superb.learning_rates [1e-3] --superb.num_workers 0"
    sizes = "projector_dim 16 hidden_dim 8 pooled_dim 8 num_workers 0 dim 16 ffn_dim 16 conv_dim 16 beam 2 max_tokens 10 asv.min_seconds 0"
    sizes += ' pr.vocabulary training vc.encoder linear vc.prenet_dims [8] vc.cells 1 se.metrics ["si_sdr_improvement"]'
    names = sizes.split()
    settings = [word for name, value in zip(names[::2], names[1::2], strict=True) for word in (f"--task.{name}", value)]
    with pretend_gpu():
        cuda("superb", "all", "--upstream", "fbank", "--data", data, "--out", tmp_path / "exp", *common.split(), *settings,
             "--superb.st.warmup_steps", 1, "--superb.vc.warmup_steps", 1)  # fmt: skip
