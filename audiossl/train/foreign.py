"""What options of fairseq, s3prl and transformers are called here, for the message about one that is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_SECONDS = "in seconds of audio, padding included"
_PRECISION = ("train.precision, 'bf16' or 'fp32'",)
_BATCH = (f"data.batch_seconds, {_SECONDS}, not in utterances",)
_STEPS = ("train.max_steps, in updates, not in epochs",)

_NAMES: dict[str, tuple[str, ...]] = {
    "max_tokens": (f"data.batch_seconds, {_SECONDS}, not in samples",),
    "batch_size": _BATCH,
    "train_batch_size": _BATCH,
    "per_device_train_batch_size": _BATCH,
    "max_sample_size": ("objective.crop_duration, in seconds", "data.max_duration, in seconds"),
    "min_sample_size": ("data.min_duration, in seconds",),
    "dataloader_num_workers": ("data.num_workers",),
    "max_update": ("train.max_steps",),
    "total_steps": ("train.max_steps",),
    "max_epoch": _STEPS,
    "num_train_epochs": _STEPS,
    "update_freq": ("train.accumulate",),
    "gradient_accumulation_steps": ("train.accumulate",),
    "gradient_accumulate_steps": ("train.accumulate",),
    "max_grad_norm": ("train.clip_norm",),
    "gradient_clipping": ("train.clip_norm",),
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "log_interval": ("train.log_every",),
    "logging_steps": ("train.log_every",),
    "log_step": ("train.log_every",),
    "save_interval_updates": ("train.save_every",),
    "save_steps": ("train.save_every",),
    "save_step": ("train.save_every",),
    "validate_interval_updates": ("train.eval_every",),
    "eval_steps": ("train.eval_every",),
    "eval_step": ("train.eval_every",),
    "keep_interval_updates": ("train.keep_checkpoints",),
    "keep_last_epochs": ("train.keep_checkpoints, in checkpoints, not in epochs",),
    "save_total_limit": ("train.keep_checkpoints",),
    "lr": ("optim.peak_lr",),
    "learning_rate": ("optim.peak_lr",),
    "adam_betas": ("optim.betas",),
    "adam_eps": ("optim.eps",),
    "adam_epsilon": ("optim.eps",),
    "warmup_updates": ("optim.warmup_steps",),
    "lr_scheduler_type": ("optim.schedule",),
    "phase_ratio": ("optim.tri_stage",),
    "final_lr_scale": ("optim.final_lr_ratio",),
    "freeze_finetune_updates": ("finetune.freeze_steps",),
    "mask_channel_prob": ("finetune.channel_mask_prob",),
    "mask_channel_length": ("finetune.channel_mask_length",),
    "mask_time_prob": ("objective.mask_prob", "finetune.mask_prob"),
    "mask_time_length": ("objective.mask_length", "finetune.mask_length"),
    "mask_feature_prob": ("finetune.channel_mask_prob",),
    "mask_feature_length": ("finetune.channel_mask_length",),
    "logit_temp": ("objective.temperature",),
    "pred_masked_weight": ("objective.masked_weight",),
    "pred_nomask_weight": ("objective.unmasked_weight",),
    "labels": ("task.tokens",),
    "encoder_layers": ("encoder.num_layers",),
    "num_hidden_layers": ("encoder.num_layers",),
    "encoder_embed_dim": ("encoder.dim",),
    "hidden_size": ("encoder.dim",),
    "encoder_ffn_embed_dim": ("encoder.ffn_dim",),
    "intermediate_size": ("encoder.ffn_dim",),
    "encoder_attention_heads": ("encoder.num_heads",),
    "num_attention_heads": ("encoder.num_heads",),
    "layer_norm_first": ("encoder.pre_norm",),
    "encoder_layerdrop": ("encoder.layer_drop",),
    "layerdrop": ("finetune.layer_drop", "encoder.layer_drop"),
    "normalize": ("encoder.normalise_waveform",),
    "data": ("--data",),
    "train_subset": ("--data",),
    "valid_subset": ("--dev",),
    "save_dir": ("--out",),
    "output_dir": ("--out",),
    "w2v_path": ("--init",),
    "model_path": ("--init",),
    "model_name_or_path": ("--init",),
    "finetune_from_model": ("--init",),
    "restore_file": ("--init, or --resume to go on",),
}
"""Their key -> ours with what is to be known of it, of which the first that the recipe has is meant."""


def translated(key: str, options: Mapping[str, Collection[str]]) -> str:
    """Say what the key of an unknown option is here, `KEY is TABLE.KEY here`; "" where that is not known. options: known keys by table."""
    same = [f"{table}.{key}" for table, keys in options.items() if key in keys]
    for meant in (*same, *_NAMES.get(key, ())):
        option, comma, remark = meant.partition(",")
        table, _, name = option.partition(".")
        if option.startswith("--") or name in options.get(table, ()):
            return f"{key} is {option} here{comma}{remark}"
    return ""
