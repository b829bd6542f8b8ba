"""Any weighted sum of losses on the representation and on its projection, such as InfoNCE(y) + VICReg(z)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from audiossl import registry
from audiossl.config import build
from audiossl.margins._base import ScheduledMargin
from audiossl.objectives._projected import ProjectedConfig, ProjectedObjective, uncounted
from audiossl.objectives._speaker import MarginConfig, output_of, positive_cosine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput

_PAIRS = (["first", "second"], ["query", "key"])
"""Positional parameters of the losses that compare two views of each utterance."""


def _published_y() -> dict[str, Any]:
    return {"info_nce": {"weight": 1.0, "temperature": 0.07}}


def _published_z() -> dict[str, Any]:
    return {"vicreg": {"weight": 1.0}}


class Combined(ProjectedObjective):
    """Sum of weight x loss over terms on the representation y and on the embedding z of two crops (Lepage and Dehak, 2022)."""

    @dataclass(frozen=True)
    class Config(ProjectedConfig):
        """y, z: what is summed at each level, from the name of a file in `losses/` to its `weight` (1 if not given) and its own options.

        In a recipe `[objective.z.vicreg]` with `weight = 1.0` and `covariance = 0.1`; on the command line `--objective.z.vicreg.weight 2`.
        A weight of 0 leaves a term out. A loss that takes a margin has it in a table of its own, as simclr has: `[objective.y.info_nce.margin]`.
        Losses fit that compare two views. The group of `w_mse` has more rows than the level dimensions, unless there is a shrinkage; a batch that does not
        fill one trains nothing and counts nothing. Defaults: the best model of the paper, 8.47 % EER.
        """

        projector_dims: tuple[int, ...] = (2048, 2048, 2048)
        y: Any = field(default_factory=_published_y)
        z: Any = field(default_factory=_published_z)

        def __post_init__(self) -> None:
            super().__post_init__()
            terms = _terms(self)
            if not terms:
                raise ValueError("objective.y, objective.z: no term has a weight; add one such as [objective.z.vicreg]")
            if self.projector_dims:
                _check_groups(terms, "z", self.projector_dims[-1])
            if self.projector_dims and all(term.level == "y" for term in terms):
                raise ValueError(
                    f"objective.projector_dims: {list(self.projector_dims)} is for terms in objective.z, of which there is none; give []"
                )

        @classmethod
        def tiny(cls) -> Combined.Config:
            """Return the smallest one that exercises everything, for tests."""
            margin = {"name": "additive", "size": 0.1, "ramp_steps": 2}
            y = {"info_nce": {"temperature": 0.07, "margin": margin}, "nt_xent": {"weight": 0.0}}
            z = {"vicreg": {"weight": 0.5}, "w_mse": {"group_size": 3, "shrinkage": 0.5}}
            return cls(crop_duration=0.3, projector_dims=(8, 2), y=y, z=z)

    headline: ClassVar[tuple[str, ...]] = ("positive_cosine",)

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        self.terms = _terms(config)
        for level, dim in {"y": encoder.embedding_dim, "z": self.out_dim}.items():
            _check_groups(self.terms, level, dim)
        self.group_rows = max((_group_size(term) for term in self.terms if term.name == "w_mse"), default=0)
        margins = {term.label: term.margin.build(term.temperature) for term in self.terms}
        self.margins = nn.ModuleDict({label: margin for label, margin in margins.items() if margin is not None})

    def after_step(self, step: int) -> None:
        """Let the margins grow."""
        for margin in self.margins.values():
            assert isinstance(margin, ScheduledMargin)
            margin.after_step(step)

    def forward(self, batch: Batch) -> StepOutput:
        """Add up the terms; each is logged before it is weighted, as `y_info_nce` say."""
        representations = self.embed(self.pieces(batch))
        levels = {"y": representations, "z": self.project(representations)}
        similar = positive_cosine(representations)
        if not self.fills_group(representations[0]):
            names = [term.label for term in self.terms]
            return uncounted(levels["z"], representations, names, positive_cosine=similar)
        values = {
            term.label: term.loss(*levels[term.level], across_processes=self.across, **self._margin(term))
            for term in self.terms
        }
        loss = torch.stack([term.weight * value for term, value in zip(self.terms, values.values(), strict=True)]).sum()
        return output_of(loss, representations, positive_cosine=similar, **values)

    def _margin(self, term: Term) -> dict[str, nn.Module]:
        return {"margin": self.margins[term.label]} if term.label in self.margins else {}


@dataclass(frozen=True)
class Term:
    """One summand. level: `y` or `z`. loss: of two views (batch, dim), ready but for `across_processes` and its margin, if it has one."""

    level: str
    name: str
    weight: float
    margin: MarginConfig
    loss: partial[Tensor]

    @property
    def label(self) -> str:
        """Under which it is logged."""
        return f"{self.level}_{self.name}"

    @property
    def temperature(self) -> float | None:
        """Of the loss, if it has one."""
        parameters = _parameters_of(self.name)
        if "temperature" not in parameters:
            return None
        return float(self.loss.keywords.get("temperature", parameters["temperature"].default))


def _terms(config: Combined.Config) -> list[Term]:
    """The terms with a weight; ValueError for what is no table, no loss of two views, or no option of it."""
    terms = []
    for level in ("y", "z"):
        tables = _table(getattr(config, level), f"objective.{level}")
        for name, given in tables.items():
            where = f"objective.{level}.{name}"
            options = dict(_table(given, where))
            weight = _not_negative(_number(options.pop("weight", 1.0), f"{where}.weight"), f"{where}.weight")
            margin = _margin_of(name, options, where)
            loss = _loss(name, options, where)
            if weight:
                terms.append(Term(level, name, weight, margin, loss))
    return terms


def _check_groups(terms: list[Term], level: str, dim: int) -> None:
    """Refuse groups that cannot be whitened. dim: of the vectors at the level."""
    for term in (term for term in terms if term.level == level and term.name == "w_mse"):
        rows = _group_size(term)
        if rows <= dim and not inspect.signature(term.loss).parameters["shrinkage"].default:
            raise ValueError(
                f"objective.{level}.w_mse.group_size: {rows} rows cannot be whitened in {dim} dimensions; "
                "give twice as many rows as dimensions, fewer dimensions, or a shrinkage"
            )


def _group_size(term: Term) -> int:
    """Of a term `w_mse`: given, or the loss's own."""
    return int(inspect.signature(term.loss).parameters["group_size"].default)


def _margin_of(name: str, options: dict[str, Any], where: str) -> MarginConfig:
    """The margin that the options ask for, which are left without it; none where the loss takes none, for which one is an unknown key."""
    if "margin" not in options or "margin" not in _parameters_of(name):
        return MarginConfig()
    return build(MarginConfig, dict(_table(options.pop("margin"), f"{where}.margin")), f"{where}.margin")


def _loss(name: str, options: dict[str, Any], where: str) -> partial[Tensor]:
    function = registry.get("losses", name)
    parameters = inspect.signature(function).parameters
    if not _of_two_views(parameters):
        fitting = [n for n in registry.names("losses") if _of_two_views(_parameters_of(n))]
        raise ValueError(f"{where}: {name} does not compare two views; losses that do: {', '.join(fitting)}")
    known = [key for key, value in parameters.items() if isinstance(value.default, bool | int | float | str)]
    known.remove("across_processes")
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; {registry.suggestion(key, ['weight', *known])}")
        options[key] = _like(parameters[key].default, value, f"{where}.{key}")
        if key == "temperature" and options[key] <= 0:
            raise ValueError(f"{where}.{key}: {value} is not positive")
        _not_negative(options[key], f"{where}.{key}")
    if "generator" in parameters:
        options["generator"] = torch.default_generator
    return partial(function, **options)


def _of_two_views(parameters: Mapping[str, inspect.Parameter]) -> bool:
    required = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return required in _PAIRS and "across_processes" in parameters


def _parameters_of(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(registry.get("losses", name)).parameters


def _like(default: Any, value: Any, where: str) -> Any:
    """The value if it is of the default's kind."""
    if isinstance(default, float):
        return _number(value, where)
    if type(value) is not type(default):
        raise ValueError(f"{where}: {value!r} is of another kind than the default {default!r}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: {value!r} is not a number")
    return float(value)


def _not_negative(value: Any, where: str) -> Any:
    if isinstance(value, int | float) and value < 0:
        raise ValueError(f"{where}: {value} is negative; give 0 or more")
    return value


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {value!r} is not a table; write [{where}] with its keys")
    return value
