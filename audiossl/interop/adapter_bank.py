"""Many fine-tuned experiments over one encoder in memory: tasks or languages, chosen by name at run time.

bank = AdapterBank("exp/hubert")
bank.add("fr", "exp/asr_fr")
bank.add("sw", "exp/asr_sw")
encoder, task = bank["sw"]
words = task.predict(encoder(waveform, lengths))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audiossl.interop.checkpoint import load_weights
from audiossl.interop.encoder import (
    RANDOM,
    build_encoder,
    load_encoder,
    named_config,
    open_source,
    require_base,
    weights_hash,
)
from audiossl.registry import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from audiossl.nn.ssl_encoder import SSLEncoder


class Adapted(NamedTuple):
    """An encoder with its adapters, and the task on it; both in eval mode."""

    encoder: SSLEncoder
    task: Any


class AdapterBank(Mapping[str, Adapted]):
    """Name -> encoder and task of an experiment. All have the frozen tensors of one encoder in common, so each more costs its checkpoint alone.

    source: the encoder, as for `load_encoder`, which explains `seed`. device: where all of it lies; moving one of them later would copy what is
    shared.
    """

    def __init__(self, source: str | Path, *, seed: int = 0, device: str = "cpu") -> None:
        base = load_encoder(source, seed=seed)
        self.source = _told(str(source), seed)
        self.device = device
        self.hash = weights_hash(base)
        self._weights = base.to(device).state_dict()
        self._members: dict[str, Adapted] = {}

    def add(self, name: str, experiment: str | Path) -> None:
        """Load the adapters and the task of a fine-tuned experiment, or one of its checkpoints.

        ValueError where it has none, or where they were trained on an encoder with other weights.
        """
        if name in self._members:
            raise ValueError(f"adapter bank: holds {name!r} already; choose another name")
        checkpoint, tables = open_source(experiment)
        if not {"adapter", "task"} <= tables.keys():
            raise ValueError(f"{experiment}: has no adapter and task; give an experiment of `audiossl finetune`")
        self._require_same_base(checkpoint.parent.parent, tables["run"])
        encoder = build_encoder(tables["encoder"])
        # Tensors are put in place of the new encoder's, here and below, where copying into them would change all members.
        encoder.load_state_dict(self._weights, assign=True)
        adapter, config = named_config("adapters", tables["adapter"], "adapter")
        inserted = adapter(config)
        inserted.insert(encoder)
        task_class, task_config = named_config("tasks", tables["task"], "task")
        task = task_class.from_experiment(encoder, task_config, checkpoint.parent.parent)
        stored = {key: value.to(self.device) for key, value in load_weights(checkpoint).items()}
        expected = {f"encoder.{key}" for key in inserted.trainable_state(encoder)}
        expected |= {f"task.{key}" for key in task.state_dict()}
        if differing := sorted(expected ^ stored.keys()):
            raise ValueError(
                f"{checkpoint}: does not fit its config.toml: {len(differing)} tensors differ, such as {differing[0]!r}"
            )
        _put(stored, "encoder", encoder)
        _put(stored, "task", task)
        for module in (encoder, task):
            module.requires_grad_(requires_grad=False)
            module.to(self.device).eval()
        self._members[name] = Adapted(encoder, task)

    def __getitem__(self, name: str) -> Adapted:
        if name not in self._members:
            raise KeyError(f"adapter bank: no {name!r}; {suggestion(name, list(self._members))}")
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def _require_same_base(self, experiment: Path, run: dict[str, Any]) -> None:
        init, seed = run["init"], run["init_seed"]
        # Recognisers of other packages come with their encoder and without a hash of it.
        if "init_hash" not in run:
            require_base(experiment, init)
        if (run.get("init_hash") or weights_hash(load_encoder(init, seed=seed))) == self.hash:
            return
        base = _told(init, seed)
        if Path(base).resolve() == Path(self.source).resolve():
            raise ValueError(
                f"{experiment}: was trained on {base}, whose weights have changed since; put back those, or fine-tune again"
            )
        raise ValueError(
            f"{experiment}: was trained on {base}, whose weights are not those of {self.source}; use a bank over that"
        )


def _told(source: str, seed: int) -> str:
    """A source as it is told from others: random weights by their seed too."""
    return f"{source} of seed {seed}" if source.startswith(RANDOM) else source


def _put(stored: dict[str, Tensor], part: str, module: nn.Module) -> None:
    prefix = f"{part}."
    own = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    module.load_state_dict(own, strict=False, assign=True)
