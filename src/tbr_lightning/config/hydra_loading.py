"""The parts of Hydra that compose configs, without its own config, which no command reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tbr_lightning.config.targets import TargetSource
from tbr_lightning.config.verbs import VERBS

_AUTO = "auto"  # of the group data: the rows that go with the model


@cache
def _schema_is_stored(verb: str) -> None:
    ConfigStore.instance().store(name=verb, node=VERBS[verb], group="schema")


@contextmanager
def searching(verb: str, shipped: Path, config_dir: str | None) -> Iterator[None]:
    """Let Hydra search a command's schema and the shipped configs, before them a user's own.

    Hydra's public ``initialize_config_dir`` cannot put one folder before another that holds the
    primary config.
    """
    _schema_is_stored(verb)
    SourcesRegistry.instance().register(TargetSource)
    path = create_config_search_path(f"targets://{shipped}")
    if config_dir is not None:
        path.prepend("user", f"targets://{Path(config_dir).resolve()}")
    GlobalHydra.instance().clear()
    try:
        version.setbase("1.3")
        Hydra.create_main_hydra2("tbr_lightning", path)
        yield
    finally:
        GlobalHydra.instance().clear()


class _Repository(CachingConfigRepository):
    """Hydra's, without the copy of every schema that it makes to change its sources later."""

    def __init__(self, delegate: IConfigRepository) -> None:
        self.delegate = delegate
        self.cache = {}


def composed(
    verb: str, overrides: Sequence[str], shipped: Path, config_dir: str | None
) -> tuple[DictConfig, dict[str, str | None]]:
    """Compose a command's config within :func:`searching`, as ``hydra.compose`` does.

    Args:
        verb: Command.
        overrides: Overrides in Hydra's grammar.
        shipped: Folder that is searched.
        config_dir: Folder of the user's own configs, if any.

    Returns:
        The config, and the chosen member of each group.

    Raises:
        HydraException: A group, a member or a key does not exist, or a value does not fit.
    """
    if config_dir is not None:  # its targets may be classes that a notebook loads anew
        return _compose(verb, overrides)
    state = tuple((path, path.stat().st_mtime_ns) for path in shipped.rglob("*.yaml"))
    node, choices = _kept(verb, tuple(overrides), state)
    return deepcopy(node), dict(choices)


@lru_cache(maxsize=64)
def _kept(
    verb: str, overrides: tuple[str, ...], state: tuple[tuple[Path, int], ...]
) -> tuple[DictConfig, dict[str, str | None]]:
    """Compose the same groups once: trials, arms and tests differ in a few values."""
    return _compose(verb, overrides)


def _compose(verb: str, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str | None]]:
    repository = _Repository(_loader().repository)
    defaults = _defaults(verb, overrides, repository)
    choices = defaults.overrides.known_choices
    if choices.get("data") != _AUTO:
        return _merged(defaults, repository)
    # Only the model shows what goes with it, and nearly always its own file does: composing takes
    # long enough to be noticed, and this saves doing it twice.
    file = repository.load_config(f"model/{choices['model']}") if choices.get("model") else None
    data = _data_of({} if file is None else file.config)
    found = _merged(_defaults(verb, [*overrides, f"data={data}"], repository), repository)
    if (right := _data_of(found[0].model)) == data:
        return found
    repository = _Repository(_loader().repository)
    return _merged(_defaults(verb, [*overrides, f"data={right}"], repository), repository)


def _data_of(model: Any) -> str:
    """Return the data that go with the config of a model."""
    return str((model.get("pretraining") or {}).get("data", "safety_mix"))


@contextmanager
def _as_of_hydra() -> Iterator[None]:
    """Raise OmegaConf's errors as errors of the composition."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise ConfigCompositionException from error


@_as_of_hydra()
def _defaults(verb: str, overrides: Sequence[str], repository: IConfigRepository) -> DefaultsList:
    return create_defaults_list(
        repository, verb, _parsed(overrides), prepend_hydra=False, skip_missing=False
    )


@_as_of_hydra()
def _merged(
    defaults: DefaultsList, repository: IConfigRepository
) -> tuple[DictConfig, dict[str, str | None]]:
    """Merge the files of a defaults list; the repository cannot be used again."""
    loader = _loader()
    node: DictConfig = loader._compose_config_from_defaults_list(defaults.defaults, repository)
    OmegaConf.set_struct(node, True)
    loader._apply_overrides_to_config(defaults.config_overrides, node)
    return node, dict(defaults.overrides.known_choices)


@_as_of_hydra()
def override(node: DictConfig, overrides: Sequence[str]) -> None:
    """Write the values of overrides that choose no member of a group into a composed config."""
    _loader()._apply_overrides_to_config(_parsed(overrides), node)


def _loader() -> ConfigLoaderImpl:
    found = GlobalHydra.instance().config_loader()
    assert isinstance(found, ConfigLoaderImpl)
    return found


def _parsed(overrides: Sequence[str]) -> list[Override]:
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    _loader().validate_sweep_overrides_legal(parsed, run_mode=RunMode.RUN, from_shell=False)
    return parsed
