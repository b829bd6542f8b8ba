"""What fairseq makes of files of ours, and files of its own: run by its own Python, which is older than ours.

In the folder that is given it reads `waveforms.pt`, [(waveform, lengths), ...], and `given/*/x.pt`. It writes `given/*/answer.pt`, `tuned/*/answer.pt`,
`made/*/x.pt` and `made/*/answer.pt`.
"""

import logging
import sys
from pathlib import Path

import torch
from fairseq import checkpoint_utils, tasks
from omegaconf import OmegaConf

logging.disable(logging.CRITICAL)

SETTINGS = {
    "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4, "final_dim": 8,
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2", "conv_pos": 16, "conv_pos_groups": 4,
}  # fmt: skip
LARGE = {"layer_norm_first": True, "extractor_mode": "layer_norm", "conv_bias": True}


def layers_of(model, waveform, lengths):
    """Every layer over padded frames: what goes into each block, and what comes out of the last."""
    seen = []
    hooks = [
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0].transpose(0, 1)))
        for block in model.encoder.layers
    ]
    padding = torch.arange(waveform.shape[1])[None] >= lengths[:, None]
    found = model.extract_features(waveform, padding_mask=padding, mask=False)
    for hook in hooks:
        hook.remove()
    return [*seen, found["x"] if isinstance(found, dict) else found[0]]


def logits_of(model, waveform, lengths):
    padding = torch.arange(waveform.shape[1])[None] >= lengths[:, None]
    return [model(source=waveform, padding_mask=padding)["encoder_out"].transpose(0, 1)]


def normalised(waveform, lengths):
    rows = [torch.nn.functional.layer_norm(row[:n], (n,)) for row, n in zip(waveform, lengths.tolist())]  # noqa: B905 - Python 3.8
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def computed(model, batches, *, normalise, compute):
    if normalise:
        batches = [(normalised(waveform, lengths), lengths) for waveform, lengths in batches]
    return [compute(model, *batch) for batch in batches]


def answer(folder, batches):
    """Load a file as fairseq's own programs do; what it computes, and a recogniser's symbols."""
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(folder / "x.pt")])
    recogniser = hasattr(model, "w2v_encoder")
    symbols = task.target_dictionary.symbols if recogniser else []
    compute = logits_of if recogniser else layers_of
    found = computed(model.eval(), batches, normalise=cfg.task.normalize, compute=compute)
    torch.save({"found": found, "symbols": symbols}, folder / "answer.pt")


def built(folder, model, task):
    """A task, and a model with random weights or, if that says where to start from, those."""
    folder.mkdir(parents=True)
    for name, count in (("km", 9), ("ph", 6), ("ltr", 5)):
        (folder / f"dict.{name}.txt").write_text("".join(f"{name}{i} 1\n" for i in range(count - 4)))
    whole = {"task": {"data": str(folder), **task}, "model": model, "criterion": None, "lr_scheduler": None}
    cfg = OmegaConf.create(whole)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model).eval()
    return cfg, task, model


def make(folder, model, task, batches):
    """Write a checkpoint, as fairseq's trainer does, of a model with random values in all its weights, and what it computes."""
    cfg, task, model = built(folder, model, task)
    for value in model.state_dict().values():
        value += 0.1 * torch.rand_like(value)
    recogniser = hasattr(model, "w2v_encoder")
    if recogniser:
        cfg.model = model.cfg
    table = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    history = {
        "criterion_name": "ctc",
        "optimizer_name": "Adam",
        "lr_scheduler_state": {"best": None},
        "num_updates": 7,
    }
    state = {"args": None, "cfg": table, "model": model.state_dict(), "task_state": task.state_dict()}
    state.update(optimizer_history=[history], extra_state={"epoch": 1})
    checkpoint_utils.torch_persistent_save(state, str(folder / "x.pt"))
    compute = logits_of if recogniser else layers_of
    torch.save([compute(model, *batch) for batch in batches], folder / "answer.pt")


def recogniser_from(start, folder):
    """What fairseq's recipes say of a recogniser that starts from a pretrained file: its model and task."""
    task = torch.load(start / "x.pt")["cfg"]["task"]
    own = {"normalize": bool(task.get("normalize")), "data": str(folder)}
    wav2vec2 = {"_name": "wav2vec_ctc", "ddp_backend": "legacy_ddp"}
    kind = wav2vec2 if task["_name"] == "audio_pretraining" else {"_name": "hubert_ctc"}
    model = {**kind, **own, "w2v_path": str(start / "x.pt"), "mask_prob": 0.3, "mask_channel_prob": 0.2}
    return model, {**own, "_name": "audio_finetuning", "labels": "ltr"}


def fine_tune(start, folder, batches):
    """Start a recogniser from a file of ours; what its encoder computes, and how it would mask."""
    cfg, _, model = built(folder, *recogniser_from(start, folder))
    encoder = model.w2v_encoder.w2v_model
    found = computed(encoder, batches, normalise=cfg.task.normalize, compute=layers_of)
    torch.save({"found": found, "masks": (encoder.mask_prob, encoder.mask_channel_prob)}, folder / "answer.pt")


def main(root):
    torch.manual_seed(0)
    batches = torch.load(root / "waveforms.pt")
    for folder in sorted((root / "given").iterdir()):
        answer(folder, batches)
        if not folder.name.endswith("_ctc"):
            fine_tune(folder, root / "tuned" / folder.name, batches)
    for shape, settings in (("base", SETTINGS), ("large", {**SETTINGS, **LARGE})):
        folder = root / "made" / f"hubert_{shape}"
        model = {"_name": "hubert", "label_rate": 50.0, "untie_final_proj": True, **settings}
        task = {"_name": "hubert_pretraining", "labels": ["km", "ph"], "label_rate": 50.0, "normalize": False}
        make(folder, model, task, batches)
        make(
            root / "made" / f"hubert_ctc_{shape}",
            *recogniser_from(folder, root / "made" / f"hubert_ctc_{shape}"),
            batches,
        )
        folder = root / "made" / f"wav2vec2_{shape}"
        model = {"_name": "wav2vec2", "quantize_targets": True, "latent_vars": 5, **settings}
        make(folder, model, {"_name": "audio_pretraining", "normalize": False}, batches)
        make(
            root / "made" / f"wav2vec2_ctc_{shape}",
            *recogniser_from(folder, root / "made" / f"wav2vec2_ctc_{shape}"),
            batches,
        )


if __name__ == "__main__":
    with torch.no_grad():
        main(Path(sys.argv[1]))
