"""The parts of Hydra that compose configs, without its own config, which no command reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, lru_cache
from pathlib import Path

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.defaults_list import create_defaults_list
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


@cache
def _schemas_are_stored() -> None:
    store = ConfigStore.instance()
    for name, node in VERBS.items():
        store.store(name=name, node=node, group="schema")


@contextmanager
def searching(shipped: Path, config_dir: str | None) -> Iterator[None]:
    """Let Hydra search the shipped configs, and before them a user's own.

    Hydra's public ``initialize_config_dir`` cannot put one folder before another that holds the
    primary config.
    """
    _schemas_are_stored()
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
    loader = _loader()
    try:
        parsed = _parsed(overrides)
        repository = _Repository(loader.repository)
        defaults = create_defaults_list(
            repository, verb, parsed, prepend_hydra=False, skip_missing=False
        )
        node: DictConfig = loader._compose_config_from_defaults_list(defaults.defaults, repository)
        OmegaConf.set_struct(node, True)
        loader._apply_overrides_to_config(defaults.config_overrides, node)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException from error
    return node, dict(defaults.overrides.known_choices)


def override(node: DictConfig, overrides: Sequence[str]) -> None:
    """Write the values of overrides that choose no member of a group into a composed config."""
    try:
        _loader()._apply_overrides_to_config(_parsed(overrides), node)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException from error


def _loader() -> ConfigLoaderImpl:
    found = GlobalHydra.instance().config_loader()
    assert isinstance(found, ConfigLoaderImpl)
    return found


def _parsed(overrides: Sequence[str]) -> list[Override]:
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    _loader().validate_sweep_overrides_legal(parsed, run_mode=RunMode.RUN, from_shell=False)
    return parsed
