"""What speaker heads on self-supervised encoders share: which encoder is inside, where its weights come from, and what of it trains."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from audiossl import config as configuration
from audiossl import registry
from audiossl.encoders._options import check_options
from audiossl.nn.ssl_speaker import SSLSpeaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

    from audiossl.nn.ssl_encoder import SSLEncoder
    from audiossl.nn.ssl_speaker import SpeakerHead

Table = dict[str, Any]
_KINDS = {"encoder": "encoders", "adapter": "adapters"}


@dataclass(frozen=True)
class SSLSpeakerConfig:
    """The encoder inside, by its experiment or by its table.

    init: experiment, checkpoint or name of the encoder inside, `random:` and one of these, or `s3prl:NAME`; read once, when training begins. encoder: its
    table: without a `name` what differs from that of `init`; with one it stands alone, with random weights where there is no `init`. The
    `config.toml` of an experiment has it complete, so that a checkpoint is loaded without `init`. adapter: `name` and keys of a file of
    `adapters/`: what trains inside, nothing by default.
    """

    init: str = ""
    encoder: Any = field(default_factory=dict)
    adapter: Any = field(default_factory=lambda: {"name": "frozen"})

    def __post_init__(self) -> None:
        check_options(self)
        for name in _KINDS:
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"encoder.{name}: {getattr(self, name)!r} is not a table; write [encoder.{name}]")

    def completed(self, table_of: Callable[[str], Table]) -> Self:
        """Return it with nothing left to look up: `encoder` and `adapter` with every key. table_of: from a source to its encoder's table."""
        encoder = self.encoder
        if "name" not in encoder:
            if not self.init:
                raise ValueError(
                    "encoder.init: no encoder is named; give --encoder.init EXP, or describe one in [encoder.encoder]"
                )
            encoder = configuration.merge(table_of(self.init), encoder)
        complete = replace(self, encoder=_complete("encoder", encoder), adapter=_complete("adapter", self.adapter))
        _require_adaptable(complete)
        return complete


class SSLSpeakerEncoder(SSLSpeaker):
    """The base: an encoder by its configuration. A subclass says its `Config` and makes the head."""

    def __init__(self, config: SSLSpeakerConfig, make_head: Callable[[SSLEncoder], SpeakerHead]) -> None:
        cls, inner = _plugin("encoder", config.encoder)
        _require_adaptable(config)
        with _told_inside("encoder"):
            encoder: SSLEncoder = cls(inner)
        super().__init__(encoder, make_head(encoder))
        self.init = config.init
        before = encoder.state_dict().keys()
        adapter, options = _plugin("adapter", config.adapter)
        adapter(options).insert(encoder)
        self._inserted = encoder.state_dict().keys() - before
        self.train()

    def start_inside(self, weights: Mapping[str, Tensor]) -> None:
        """Give the encoder inside the weights of another one; adapters stay as they began. RuntimeError where these do not fit."""
        own = self.encoder.state_dict()
        self.encoder.load_state_dict({name: own[name] for name in self._inserted} | dict(weights))

    @property
    def calibrate(self) -> Callable[[Iterable[tuple[Tensor, Tensor]]], None]:
        """That of the encoder inside, where it has to measure something on data; absent where it has not."""
        inside: Any = self.encoder
        method: Callable[[Iterable[tuple[Tensor, Tensor]]], None] = inside.calibrate
        return method


def tiny_table(name: str) -> Table:
    """The table of the smallest encoder of that name, for tests."""
    return {"name": name, **configuration.to_table(registry.get("encoders", name).Config.tiny())}


def _complete(key: str, table: Table) -> Table:
    _, config = _plugin(key, table)
    return {"name": table["name"], **configuration.to_table(config)}


def _require_adaptable(config: SSLSpeakerConfig) -> None:
    """ValueError where something inside should train and the encoder is not one of ours with a Transformer: such a one only gives its layers."""
    cls, adapter = registry.get("encoders", config.encoder["name"]), config.adapter.get("name", "frozen")
    if adapter != "frozen" and not hasattr(cls, "contextualise"):
        raise ValueError(
            f"encoder.adapter: {adapter} trains inside, and {cls.__name__} only gives its layers; leave it frozen, or start from an encoder of ours with a Transformer"
        )


def _plugin(key: str, table: Table) -> tuple[Any, Any]:
    """Class and Config that the table `encoder` or `adapter` means; ValueError for an encoder that gives embeddings itself."""
    where = f"encoder.{key}"
    if "name" not in table:
        raise ValueError(f"{where}: has no 'name'; known: {', '.join(registry.names(_KINDS[key]))}")
    cls = registry.get(_KINDS[key], table["name"])
    if key == "encoder" and hasattr(cls, "embed"):
        raise ValueError(f"{where}: {table['name']} has embeddings of its own; give it as --init to its own recipe")
    with _told_inside(key):
        return cls, configuration.build(cls.Config, {k: v for k, v in table.items() if k != "name"}, where)


@contextmanager
def _told_inside(key: str) -> Iterator[None]:
    """Errors of a plug-in that takes `[encoder]` or `[adapter]` for its table name `[encoder.encoder]`, `[encoder.adapter]`."""
    try:
        yield
    except ValueError as error:
        told = str(error)
        inside = told.startswith((f"{key}.", f"{key}:")) and not told.startswith(f"encoder.{key}")
        raise ValueError(f"encoder.{told}" if inside else told) from error
