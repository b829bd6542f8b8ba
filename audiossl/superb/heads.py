"""Heads of one task on shared frames: one for each learning rate, trained as if it were alone, resumed exactly."""

from __future__ import annotations

import copy
import dataclasses
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from audiossl.config import to_table
from audiossl.files import whole_file
from audiossl.superb.answers import read_lines, write_lines
from audiossl.superb.job import essential
from audiossl.superb.score import Choice, Score, told_left_out
from audiossl.train.ledger import Ledger
from audiossl.train.loop import hash_seed
from audiossl.train.sums import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from audiossl.contracts import Batch, EncoderOutput
    from audiossl.data.manifest import Manifest
    from audiossl.nn.task import Task
    from audiossl.superb.answers import Answers
    from audiossl.superb.frames import Config
    from audiossl.superb.job import Evaluation, Job

_FREE = ("num_workers", "max_bad_fraction", "cache_gb", "cache_dtype")
"""Keys of a configuration that may change when heads are resumed, beside those that are not `essential`; of a cache only its rounding matters."""


@dataclass
class Best:
    """Of one head: its best value on a data directory, at which update, all that was measured there and, of test, the shares of its layers then."""

    value: float | None = None
    step: int = 0
    values: dict[str, float] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)

    def improve(self, values: Mapping[str, float], metric: tuple[str, str], step: int) -> bool:
        """Take a measurement; returns whether it is better than all before."""
        name, direction = metric
        sign = 1.0 if direction == "min" else -1.0
        if not math.isfinite(values[name]):
            raise ValueError(f"{name} is {values[name]}, which cannot be compared; check the data and the task's score")
        if self.value is not None and sign * values[name] >= sign * self.value:
            return False
        self.value, self.step, self.values = float(values[name]), step, {k: float(v) for k, v in values.items()}
        return True


class Head:
    """A task with one learning rate. alive: until its loss is not finite. skipped: updates that were not, since their gradient was not finite."""

    def __init__(self, task: Task, rate: float, config: Config) -> None:
        self.task, self.rate, self.clip_norm = task, rate, config.clip_norm or math.inf
        self.parameters = [p for p in task.parameters() if p.requires_grad]
        maker = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = maker(self.parameters, lr=rate, weight_decay=config.weight_decay, eps=config.epsilon)
        self.alive = True
        self.skipped = 0
        self.dev, self.test = Best(), Best()
        self._count = 0.0

    def micro_step(self, output: EncoderOutput, batch: Batch, seed: int) -> bool:
        """Add the gradient of a micro-batch; returns whether its loss is finite."""
        torch.manual_seed(seed)
        self.task.train()
        step = self.task.loss(output, batch)
        if not torch.isfinite(step.loss_sum):
            return False
        if step.loss_sum.requires_grad:
            step.loss_sum.backward()  # type: ignore[no-untyped-call]
        self._count += float(step.count)
        return True

    def update(self, share: float) -> None:
        """Step on the mean since the last one, where anything was counted and the gradient is finite. share: of the rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.rate
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if gradients and self._count:
            torch._foreach_mul_(gradients, 1.0 / self._count)
            if math.isfinite(float(torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm))):
                self.optimizer.step()
            else:
                self.skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        self._count = 0.0

    @torch.no_grad()
    def predict(self, output: EncoderOutput) -> list[Any]:
        """What the head says of each utterance."""
        self.task.eval()
        return list(self.task.predict(output))

    @property
    def shares(self) -> list[float]:
        """Share of each layer; nothing where the task takes one layer."""
        found = self.task.layer_shares()
        return [] if found is None else found.tolist()

    def state(self) -> dict[str, Any]:
        """Return all that a resumed head needs."""
        return {
            "alive": self.alive,
            "skipped": self.skipped,
            "weights": self.task.state_dict() if self.alive else {},
            "optimizer": self.optimizer.state_dict() if self.alive else {},
            "dev": dataclasses.asdict(self.dev),
            "test": dataclasses.asdict(self.test),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take what `state` returned; RuntimeError or ValueError where it is of another head."""
        self.alive, self.skipped = state["alive"], state["skipped"]
        self.dev, self.test = Best(**state["dev"]), Best(**state["test"])
        if self.alive:
            self.task.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])


def heads_folder(job: Job, evaluation: Evaluation, out: Path) -> Path:
    """Where the heads of a task on an upstream, by a seed, are kept."""
    return out / job.name / f"heads-{evaluation.upstream.digest[:8]}-{evaluation.seed}"


class TaskHeads:
    """The heads of one task. position: micro-batches that they have taken; ledger: what they cost.

    folder: of its own in `out`, holds `heads.pt`, written at every evaluation, and the best state of each head on the development data.
    ValueError where `heads.pt` is of other settings, or of other data or labels that the heads learn from or are chosen on.
    """

    def __init__(self, job: Job, evaluation: Evaluation, train: Manifest, out: Path) -> None:
        source, seed = evaluation.upstream, evaluation.seed
        self.job, self._evaluation, self.device = job, evaluation, torch.device(evaluation.device)
        self.config: Config = job.config
        self.selects_on_test, self.hears = bool(job.task_class.selects_on_test), bool(job.task_class.hears)
        learnt_from = ("train", "dev", "test") if self.selects_on_test else ("train", "dev")
        data = job.labels.part_digests(evaluation.data, learnt_from)
        self.folder = heads_folder(job, evaluation, out)
        torch.manual_seed(hash_seed(seed))
        task: Task = job.task_class.from_data(source.shape, job.task_config, train)
        self.needs, self.labels, self.metric = tuple(task.needs), task.labels, task.metric
        # Copies: the heads of all rates begin equal. Made before they are moved: those of a GPU's LSTM would not lie in one piece.
        self.heads = [
            Head(copy.deepcopy(task).to(self.device), rate, self.config) for rate in self.config.learning_rates
        ]
        self.position = 0
        self.ledger = Ledger(evaluation.device)
        self._facts = {"seed": seed, "upstream": source.digest, "data": data, **_settings(job)}
        self._resume()

    @property
    def end(self) -> int:
        """Number of micro-batches that it takes in all: no more once all heads have diverged."""
        return self.config.steps * self.config.accumulate if self.alive else self.position

    @property
    def step(self) -> int:
        """Updates so far."""
        return self.position // self.config.accumulate

    @property
    def alive(self) -> list[Head]:
        """Heads that have not diverged."""
        return [head for head in self.heads if head.alive]

    @property
    def scored(self) -> list[Head]:
        """Heads that have a best state, those that diverged later among them."""
        return [head for head in self.heads if head.dev.step]

    @property
    def due(self) -> bool:
        """Whether the development data is to be scored now."""
        config = self.config
        done, rest = divmod(self.position, config.accumulate)
        return bool(self.alive) and rest == 0 and (done == config.steps or done % config.eval_every == 0)

    def take(self, output: EncoderOutput | None, batch: Batch) -> None:
        """Train every head on the next micro-batch. output: its frames, None where none of its recordings can be used."""
        seed = hash_seed(self._evaluation.seed, self.position)
        self.position += 1
        updates = self.position % self.config.accumulate == 0
        own = to_device(_own(batch, self.job.name), self.device)
        for head in self.alive:
            if output is not None:
                self.ledger.alone_forwards += len(batch["utt_ids"])
                head.alive = head.micro_step(output, own, seed)
            if not head.alive:
                kept = f", its best at step {head.dev.step} is kept" if head.dev.step else ""
                self._evaluation.log(
                    f"{self.job.name}: learning rate {head.rate:g} diverges at step {self.step}; it is dropped{kept}"
                )
            elif updates:
                self._update(head)
        if not self.alive and not self.scored:
            raise ValueError(
                f"{self.job.name}: superb.learning_rates {[head.rate for head in self.heads]} all diverge; give smaller ones"
            )

    def _update(self, head: Head) -> None:
        before = head.skipped
        head.update(self.config.share(self.step - 1))
        if head.skipped > before and str(head.skipped).strip("0") == "1":  # the first, the tenth, the hundredth
            self._evaluation.log(
                f"{self.job.name}: learning rate {head.rate:g}: the gradient of step {self.step} is not finite; "
                f"that update is skipped, {head.skipped} so far"
            )

    def measured(self, dev: list[dict[str, float]] | None, test: list[Answers] | None) -> None:
        """Take what each head that is alive scored now, keep its state where it is the best so far, and write the checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.config
        for k, head in enumerate(self.alive if self.step >= min(config.choose_from, config.steps) else ()):
            if test is not None and head.test.improve(test[k].values(), self.metric, self.step):
                head.test.shares = head.shares
                for name, lines in test[k].lines({}).items():
                    with whole_file(self._official_path(head, name)) as partial:
                        write_lines(partial, lines)
            if dev is None:  # without development data the last step counts
                head.dev.step = self.step
            if dev is None or head.dev.improve(dev[k], self.metric, self.step):
                _save(self._best_path(head), head.task.state_dict())
        shown = dev
        if shown is None and test is not None:
            shown = [each.values() for each in test]
        if shown is not None:
            name = "dev" if dev is not None else "test"
            told = ", ".join(f"{v[self.metric[0]]:.2f} ({h.rate:g})" for h, v in zip(self.alive, shown, strict=True))
            self._evaluation.log(f"{self.job.name} step {self.step}: {name} {self.metric[0]} by learning rate: {told}")
        self._checkpoint()

    def chosen(self) -> Head:
        """Return the head that is best on the development data, in its best state."""
        sign = 1.0 if self.metric[1] == "min" else -1.0
        head = min(self.scored, key=lambda each: sign * (each.dev.value or 0.0))
        path = self._best_path(head)
        with self._matching(path):
            head.task.load_state_dict(_load(path))
        head.task.final = True
        return head

    def score(self, head: Head, said: Answers, together: list[str], left_out: int) -> Score:
        """Return the score of the chosen head. said: of test; together: tasks that shared its stream of frames; left_out: recordings of test that cannot be used."""
        name, direction = self.metric
        values = said.values()
        official: dict[str, float] = {}
        choice: Choice | None = None
        if self.selects_on_test:
            pick = min if direction == "min" else max
            best = pick(self.scored, key=lambda each: each.test.value or 0.0)
            official, choice = best.test.values, Choice(best.rate, best.test.step, tuple(best.test.shares))
        settings: dict[str, Any] = {}
        if head.task.shown is not None:
            values, official, settings = head.task.settle(head.dev.values, values)
        answers = said.lines(settings)
        if self.selects_on_test:
            kept = {f"official.{name}": self._official_path(best, name) for name in answers}
            answers |= {name: read_lines(path) for name, path in kept.items() if path.is_file()}
        return Score(
            task=self.job.name,
            upstream=self._evaluation.upstream_name,
            values=values,
            metric=head.task.shown or name,
            learning_rate=head.rate,
            seed=self._evaluation.seed,
            selection="last step" if head.dev.value is None else f"dev {name}",
            step=head.dev.step,
            parameters=sum(p.numel() for p in head.parameters),
            cost=self.ledger.cost(),
            dev={each.rate: each.dev.value for each in self.heads if each.dev.value is not None},
            official=official,
            official_choice=choice,
            shares=tuple(head.shares),
            more={
                **settings,
                **({"forwards_shared_with": together} if together else {}),
                **({"skipped_updates": skipped} if (skipped := self._skipped()) else {}),
                **told_left_out(left_out),
            },
            answers=answers,
        )

    def _skipped(self) -> dict[str, int]:
        """Updates that were skipped, by learning rate, where there were any."""
        return {str(head.rate): head.skipped for head in self.heads if head.skipped}

    def _best_path(self, head: Head) -> Path:
        return self.folder / f"best_{head.rate:g}.pt"

    def _official_path(self, head: Head, name: str) -> Path:
        """Where the answers of a head's best step on test are kept, for it cannot be asked again later."""
        return self.folder / f"official_{head.rate:g}.{name}"

    def _checkpoint(self) -> None:
        state = {
            "facts": self._facts,
            "position": self.position,
            "heads": [head.state() for head in self.heads],
            "cost": dataclasses.asdict(self.ledger.cost()),
        }
        _save(self.folder / "heads.pt", state)

    def _resume(self) -> None:
        path = self.folder / "heads.pt"
        if not path.is_file():
            return
        state = _load(path)
        self._check(path, essential(state["facts"]))
        with self._matching(path):
            for head, saved in zip(self.heads, state["heads"], strict=True):
                head.load(saved)
        self.position = state["position"]
        self.ledger.go_on(state["cost"])

    def _check(self, path: Path, earlier: dict[str, Any]) -> None:
        """Raise ValueError for the first thing in which heads differ from those of an earlier call."""
        for key, value in self._facts.items():
            if earlier.get(key) == value:
                continue
            told = f"{key} {earlier.get(key)}, now {value}"
            if key == "data":
                known = earlier.get(key) or {}
                changed = [name for name in {**value, **known} if known.get(name) != value.get(name)]
                told = f"another {' and '.join(changed)}: utterances, recordings or labels have changed"
            raise ValueError(f"{path}: was trained with {told}; choose another --out, or delete {self.folder}")

    @contextmanager
    def _matching(self, path: Path) -> Iterator[None]:
        """Turn what torch says of weights with other names or shapes into one line."""
        try:
            yield
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"{path}: does not fit this task ({' '.join(str(error).split())[:200]}); choose another --out, or delete {self.folder}"
            ) from error


def _own(batch: Batch, task: str) -> Batch:
    """Return what the labels of one task gave, under their own names."""
    prefix = f"{task}/"
    own = {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}
    return {"utt_ids": batch["utt_ids"], **own}


def _settings(job: Job) -> dict[str, Any]:
    """Return what must not change when heads are resumed, flat."""
    return essential(
        {
            "rounding": job.rounding,
            **{f"task.{key}": value for key, value in to_table(job.task_config).items() if key not in _FREE},
            **{f"superb.{key}": value for key, value in to_table(job.config).items() if key not in _FREE},
        }
    )


def _save(path: Path, content: Any) -> None:
    with whole_file(path) as partial:
        torch.save(content, partial)


def _load(path: Path) -> Any:
    import pickle

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); delete its folder and run again") from error
