"""The training loop: explicit, without callbacks, the same for pretraining and fine-tuning.

micro-batches -> loss_sum.backward() -> gradients scaled by processes / global count -> clip -> finite check -> step -> after_step ->
metrics.jsonl -> checkpoint. Since losses are sums divided once by the global count, 1 process with 4 micro-batches equals 4 processes.
"""

from __future__ import annotations

import inspect
import math
import signal
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from audiossl.interop.checkpoint import best_mark, latest_checkpoint, mark_best, restore, save_checkpoint
from audiossl.train.journal import Journal
from audiossl.train.ledger import Ledger, write_cost
from audiossl.train.monitor import CollapseConfig, CollapseMonitor
from audiossl.train.optim import OptimConfig, clip_each, learning_rate, make_optimizer, set_learning_rate, warm_up
from audiossl.train.sums import Sums, Totals, to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

    from audiossl.contracts import Batch, StepOutput
    from audiossl.data.loader import BadRecordings
    from audiossl.train.distributed import World

    Better = tuple[str, Literal["min", "max"]]
    Evaluate = Callable[[nn.Module, Callable[[str], None]], dict[str, float]]
_FATAL_BAD_STEPS = 10


@dataclass(frozen=True)
class TrainConfig:
    """How long, how precisely, how often.

    max_steps: optimiser updates. accumulate: micro-batches per update and process. precision: of autocast. clip_norm: of the gradient, 0 is
    none. clip: whether that is the norm of the whole gradient or of each parameter's by itself, as published for DINO. log_every,
    save_every, eval_every: in steps; eval_every 0 is only at the end. keep_checkpoints: the newest ones, 0 all; the best one
    stays too.
    """

    max_steps: int = 250_000
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "bf16"
    clip_norm: float = 10.0
    clip: Literal["global", "parameter"] = "global"
    seed: int = 0
    log_every: int = 50
    save_every: int = 1000
    eval_every: int = 0
    keep_checkpoints: int = 2
    tensorboard: bool = True
    collapse: CollapseConfig = field(default_factory=CollapseConfig)

    def __post_init__(self) -> None:
        for name in ("max_steps", "accumulate", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}: {getattr(self, name)} is not positive")
        for name in ("clip_norm", "seed", "eval_every", "keep_checkpoints"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name}: {getattr(self, name)} is negative")
        if self.clip == "parameter" and not self.clip_norm:
            raise ValueError("train.clip: 'parameter' has no norm to clip to; set train.clip_norm, or leave it out")


class StoppedError(Exception):
    """A signal ended the run after a checkpoint was written; `signal_number` says which."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}; a checkpoint is saved; continue with --resume")
        self.signal_number = signal_number


def train(
    module: nn.Module,
    stream: Callable[[Iterable[int]], Iterator[Batch]],
    *,
    experiment: Path,
    config: TrainConfig,
    optim: OptimConfig,
    world: World,
    sample_rate: int,
    evaluate: Evaluate | None = None,
    better: Better | None = None,
    bad: BadRecordings | None = None,
    ledger: Ledger | None = None,
    begin: Callable[[], None] | None = None,
    notes: Iterable[str] = (),
    resume: bool = False,
) -> dict[str, float]:
    """Train `module` (see `contracts.Trainable`) and return the metrics of its last step.

    stream: turns global micro-batch numbers into batches of audio at `sample_rate` Hz. evaluate: from the module and a function that
    writes a line into the journal to metrics on the development data; `better` names the one that chooses the best checkpoint. bad:
    counts the recordings that were left out of batches. ledger: of what the run costs, where that began before training. begin: writes
    what belongs into the experiment, in the main process, once a checkpoint to go on from has been loaded. notes: lines for the log. Raises
    CollapseError, ValueError on diverging losses or too many bad recordings, StoppedError after SIGINT or SIGTERM.
    """
    run = _Run(module, experiment, config, optim, world, ledger or Ledger(world.device), better, resume=resume)
    if begin is not None and world.main:
        begin()
    position = run.position
    stride = world.size * config.accumulate
    own = (position + update * stride + k * world.size + world.rank
           for update in range(config.max_steps - run.step) for k in range(config.accumulate))  # fmt: skip
    last: dict[str, float] = {}
    with _signals() as caught, run.open_journal() as journal:
        for line in (run.greeting(), *notes):
            journal.say(line)
        if evaluate is None and config.eval_every:
            journal.say(
                f"train.eval_every is {config.eval_every}, but no development data is given: nothing is evaluated; add --dev DIR"
            )
        if evaluate is not None and run.owes_evaluation(journal):
            run.evaluate(evaluate, journal)
        batches = stream(own)
        while run.step < config.max_steps:
            started = time.monotonic()
            sums = Sums(world.device)
            for k in range(config.accumulate):
                batch = next(batches)
                number = run.position + k * world.size + world.rank
                run.micro_step(batch, sums, number=number, last=k == config.accumulate - 1)
            totals = sums.total(world, caught[0])
            for line in bad.add(totals.bad) if bad is not None else []:
                journal.say(line)
            last = run.update(totals, stride)
            last["audio_s_per_s"] = totals.samples / sample_rate / (time.monotonic() - started)
            journal.record(run.step, "train", {k: v for k, v in last.items() if k != "audio_s_per_s"})
            announce = run.step % config.log_every == 0 or run.step == config.max_steps
            journal.advance(run.step, run.essentials(last), announce=announce)
            run.monitor.watch(run.step, last)
            at_end = run.step == config.max_steps
            if at_end or totals.stop or run.step % config.save_every == 0:
                run.save()  # before an evaluation, which may fail
            if evaluate is not None and run.evaluation_is_due():
                run.evaluate(evaluate, journal)
            if totals.stop and not at_end:
                raise StoppedError(caught[0] or signal.SIGTERM)
    return last


class _Run:
    """The state of a run: module, optimiser, step and position in the data."""

    def __init__(
        self,
        module: nn.Module,
        experiment: Path,
        config: TrainConfig,
        optim: OptimConfig,
        world: World,
        ledger: Ledger,
        better: Better | None,
        *,
        resume: bool,
    ) -> None:
        self.module, self.ledger, self._better = module.to(world.device).train(), ledger, better
        self.experiment, self.config, self.optim, self.world = experiment, config, optim, world
        self.step = self.position = self._bad_steps = self._saved_at = 0
        self.best: float | None = None
        constant = (p for name in getattr(module, "constant_lr", ()) for p in module.get_submodule(name).parameters())
        self.optimizer = make_optimizer(module.parameters(), optim, constant=constant)
        floors = getattr(module, "collapse_floors", {})
        cure = getattr(module, "collapse_cure", None)
        warmup_steps = warm_up(config.max_steps, optim)
        self.monitor = CollapseMonitor(config.collapse, floors, warmup_steps=warmup_steps, cure=cure)
        frontend = getattr(getattr(module, "encoder", None), "frontend", None)
        self._frontend = list(frontend.parameters()) if frontend is not None else []
        if resume:
            self._load()
        self.resumed_at = self.step
        self._statistics: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._keep_statistics(good=True)
        self._parallel = self.module
        if world.size > 1:
            devices = [world.device.index] if world.device.type == "cuda" else None
            self._parallel = torch.nn.parallel.DistributedDataParallel(
                self.module, device_ids=devices, gradient_as_bucket_view=True, **_without_buffer_syncs()
            )

    def open_journal(self) -> Journal:
        return Journal(
            self.experiment,
            total_steps=self.config.max_steps,
            resumed_at=self.step,
            tensorboard=self.config.tensorboard,
            speaks=self.world.main,
        )

    def greeting(self) -> str:
        trained = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.module.parameters())
        return (
            f"{type(self.module).__name__}: {trained:,} of {total:,} parameters train on {self.world.size} x {self.world.device}, "
            f"{self.config.precision}, steps {self.step} to {self.config.max_steps}"
        )

    def micro_step(self, batch: Batch, sums: Sums, *, number: int, last: bool) -> None:
        """Forward and backward of one micro-batch; gradients add up."""
        sums.bad += batch.get("bad", [])
        # Dropout depends on which batch this is, not on the process that got it or on a restart.
        torch.manual_seed(hash_seed(self.config.seed, number))
        batch = to_device(batch, self.world.device)
        waits = isinstance(self._parallel, torch.nn.parallel.DistributedDataParallel) and not last
        with self._parallel.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with autocast(self.world.device, self.config.precision):
                output: StepOutput = self._parallel(batch)
            output.loss_sum.backward()  # type: ignore[no-untyped-call]
        sums.add(output, batch["waveform_lengths"].sum())

    def essentials(self, metrics: dict[str, float]) -> dict[str, float]:
        """Choose what a line in the log holds; the module names its own in `headline`."""
        names = ("loss", *getattr(self.module, "headline", ()), "lr", "grad_norm", "audio_s_per_s")
        return {name: metrics[name] for name in names if name in metrics}

    def update(self, sums: Totals, stride: int) -> dict[str, float]:
        """Optimiser step from the gradients added up so far; returns the step's metrics."""
        rate = learning_rate(self.step, self.config.max_steps, self.optim)
        norms = self._scale_and_clip(sums.count)
        norm = norms["grad_norm"]
        finite = math.isfinite(sums.loss) and math.isfinite(norm)
        if finite and sums.count:
            set_learning_rate(self.optimizer, rate, self.optim)
            self.optimizer.step()
        self._count_bad(finite=finite, loss=sums.loss, norm=norm)
        self.optimizer.zero_grad(set_to_none=True)
        self._keep_statistics(good=finite)
        self.step += 1
        self.position += stride
        self.module.after_step(self.step)  # type: ignore[operator]
        loss = {"loss": sums.loss / sums.count} if sums.count else {}
        return {**loss, **sums.metrics, "lr": rate, **norms}

    def _keep_statistics(self, *, good: bool) -> None:
        """Average the norms' statistics over processes; after a step whose loss or gradient was not finite, go back to those before it."""
        if good:
            running = list(self._running_statistics())
            self.world.average(running)
            self._statistics = [(value, value.clone()) for value in running]
        for value, kept in self._statistics if not good else []:
            value.copy_(kept)

    def _running_statistics(self) -> Iterator[torch.Tensor]:
        """What norms learn of the batches of their own process: not those of frozen parts."""
        for module in self.module.modules():
            if module.training:
                yield from (value for name, value in module.named_buffers(recurse=False) if name.startswith("running_"))

    def evaluation_is_due(self) -> bool:
        """Whether this step is one to measure at on the development data."""
        every = self.config.eval_every
        return self.step == self.config.max_steps or (every > 0 and self.step % every == 0)

    def owes_evaluation(self, journal: Journal) -> bool:
        """Whether a run stopped between the checkpoint that this one goes on from and the evaluation that was due."""
        if not self.resumed_at or not self.evaluation_is_due():
            return False
        return not self.world.gather([journal.holds(self.resumed_at, "dev")])[0]

    def evaluate(self, function: Evaluate, journal: Journal) -> None:
        """Measure on the development data, and mark the checkpoint of this step if it is the best so far."""
        self.module.eval()
        torch.manual_seed(
            0
        )  # what an objective draws for its loss is the same every time; a step of training has a seed of its own
        with torch.no_grad(), autocast(self.world.device, self.config.precision):
            scores = function(self.module, journal.say)
        # The main process's: those of others may differ in their last bit, and then in what they do next.
        scores = self.world.gather([scores])[0]
        self.module.train()
        score = self._score(scores)
        if score is not None and (self.best is None or score < self.best):
            self.best = score
            self._save_best(scores)
        # After the mark: a run that stopped between them measures again.
        journal.record(self.step, "dev", scores)
        journal.say(f"step {self.step}: dev " + " ".join(f"{name} {value:.4g}" for name, value in scores.items()))

    def save(self) -> None:
        """Write a checkpoint of this step, and what the run cost so far."""
        if self.world.main:
            cost = self.ledger.cost()
            weights = getattr(self.module, "state_to_save", self.module.state_dict)()
            state = {
                "step": self.step,
                "position": self.position,
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
                "cost": asdict(cost),
            }
            save_checkpoint(self.experiment, self.step, weights, state, keep=self.config.keep_checkpoints)
            write_cost(self.experiment, cost)
        self._saved_at = self.step
        self.world.barrier()

    def _save_best(self, scores: dict[str, float]) -> None:
        """Mark the checkpoint of this step as the best, and write it if it is not there yet."""
        if self._saved_at != self.step:
            self.save()
        if self.world.main:
            mark_best(self.experiment, self.step, scores)

    def _load(self) -> None:
        checkpoint = latest_checkpoint(self.experiment)
        if checkpoint is None:
            return
        state = restore(checkpoint, self.module, self.optimizer)
        self.step, self.position, self.best = state["step"], state["position"], state["best"]
        self._saved_at = self.step
        mark = best_mark(self.experiment)
        # It was scored after it was written.
        if mark.get("step") == self.step and self._better is not None and self._better[0] in mark:
            self.best = self._score(mark)
        if self.step > self.config.max_steps:
            raise ValueError(
                f"{checkpoint}: is beyond train.max_steps {self.config.max_steps}; raise it, or choose another --out"
            )
        self._refuse_other_batches()
        if "cost" in state:  # checkpoints of earlier versions have none
            self.ledger.go_on(state["cost"])

    def _score(self, scores: Mapping[str, Any]) -> float | None:
        """Return the one that chooses the best checkpoint, the lower the better; None where none does."""
        if self._better is None:
            return None
        name, direction = self._better
        return float(scores[name]) * (1 if direction == "min" else -1)

    def _refuse_other_batches(self) -> None:
        """ValueError where an update would no longer be of as many micro-batches as before."""
        before, left = divmod(self.position, max(1, self.step))
        if left or before in {0, self.world.size * self.config.accumulate}:
            return
        accumulate, left = divmod(before, self.world.size)
        cure = f"a number of processes that divides {before}" if left else f"train.accumulate {accumulate}"
        raise ValueError(
            f"train.accumulate: {self.config.accumulate} in {self.world.size} process(es), but this run has {before} micro-batches "
            f"in an update; resume with {cure}"
        )

    def _scale_and_clip(self, count: float) -> dict[str, float]:
        """Make the gradient one of the mean loss, then clip it; returns norms before the clipping, of all and of the frontend's part."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:  # nothing of the step was counted
            return {"grad_norm": 0.0}
        # DistributedDataParallel has averaged over processes; the loss is a mean over everything that was counted.
        torch._foreach_mul_(gradients, self.world.size / max(count, 1e-12))
        frontend = [p.grad for p in self._frontend if p.grad is not None]
        norms = {"frontend_grad_norm": float(torch.nn.utils.get_total_norm(frontend))} if frontend else {}
        if self.config.clip == "parameter":
            return norms | {"grad_norm": clip_each(gradients, self.config.clip_norm)}
        limit = self.config.clip_norm or math.inf
        return norms | {"grad_norm": float(torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True))}

    def _count_bad(self, *, finite: bool, loss: float, norm: float) -> None:
        self._bad_steps = 0 if finite else self._bad_steps + 1
        if self._bad_steps >= _FATAL_BAD_STEPS:
            raise ValueError(
                f"step {self.step}: loss sum {loss:g} and gradient norm {norm:g} are not finite for {self._bad_steps} steps; "
                "lower optim.peak_lr, set train.clip_norm, or use train.precision=fp32"
            )


def _without_buffer_syncs() -> dict[str, Any]:
    """Return the option by which processes do not exchange buffers at every forward: they are the same everywhere, or averaged after each update.

    torch 2.13 renamed it.
    """
    options = inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers": False}


def autocast(device: torch.device, precision: str) -> Any:
    """bf16 autocast on the device, or nothing for fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def hash_seed(*numbers: int) -> int:
    """A 63-bit seed as a function of some numbers, well mixed."""
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Catch SIGINT and SIGTERM: the list's first item becomes the signal's number; a second signal ends the process at once."""
    caught = [0]

    def note(number: int, _frame: Any) -> None:
        caught[0] = number
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, before[each])

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
