"""Config files whose ``_target_`` names a dataclass, which is their schema and their behaviour."""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from tbr_lightning.config.endpoint import HOLDERS, nested
from tbr_lightning.config.saved_targets import check_saved
from tbr_lightning.config.yaml_reading import read_yaml
from tbr_lightning.errors import UserError, first_line

T = TypeVar("T")

RENAMED = {
    "tbr_lightning.data.sources.files": "tbr_lightning.data.sources.FilesData",
    "tbr_lightning.data.sources.safety_mix": "tbr_lightning.data.sources.SafetyMixData",
    "tbr_lightning.data.sources.microworld": "tbr_lightning.microworld.plugin.MicroworldData",
    "tbr_lightning.evaluation.suites.microworld": "tbr_lightning.microworld.plugin.suite",
    "tbr_lightning.training.objective.sft": "tbr_lightning.objectives.sft.SFT",
    "tbr_lightning.mitigations.vector_ablation.Ablation": (
        "tbr_lightning.mitigations.vector_ablation.Ablation"
    ),
}
"""Targets in configs that earlier versions saved, and what they are called now."""


class TargetSource(FileConfigSource):
    """Reads a folder of config files, each typed by the dataclass that its ``_target_`` names.

    A plug-in of Hydra's. Its path is taken as it is: Hydra's own source reads it as a URI, where
    some characters of a folder's name mean something else.
    """

    @staticmethod
    def scheme() -> str:
        """Return what its paths begin with."""
        return "targets"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a config file, its values merged into the schema of its target.

        Raises:
            UserError: It is not YAML, has a key twice, or names a target that is not there.
        """
        file = Path(self.path, self._normalize_file_name(config_path))
        text = file.read_text(encoding="utf-8")
        try:
            node = read_yaml(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UserError(f"{file}:{line}: {error.problem}: correct the YAML") from error
        header = self._get_header_dict(text)
        found = ConfigResult(self.provider, f"{self.scheme()}://{self.path}", node, header)
        if not isinstance(node, DictConfig):
            return found
        if config_path.split("/", maxsplit=1)[0] in HOLDERS:
            nested(node)
        if (schema := schema_of(node.get("_target_"))) is not None:
            defaults = node.pop("defaults", None)
            merged = OmegaConf.structured(schema)
            with open_dict(merged):
                merged.merge_with(OmegaConf.create({"_target_": node.pop("_target_")}))
            merged.merge_with(node)
            if defaults is not None:
                with open_dict(merged):
                    merged["defaults"] = defaults
            found.config = merged
        return found


def schema_of(target: str | None) -> type | None:
    """Return the dataclass that a target names; ``None`` where it names something else.

    Raises:
        UserError: There is nothing of that name.
    """
    if target is None or _is_function_of_ours(target):
        return None
    try:
        found = get_object(target)
    except (HydraException, ValueError, ImportError, AttributeError) as error:
        raise UserError(
            f"_target_: {target} cannot be imported ({first_line(error)}): name a class or "
            "function that python can import here"
        ) from error
    return found if isinstance(found, type) and is_dataclass(found) else None


def _is_function_of_ours(target: str) -> bool:
    """Return whether a target is a function of this package, without importing its module.

    A judge's module compiles patterns for tenths of a second, which help and errors do not need.
    """
    module, _, name = target.rpartition(".")
    if not module.startswith("tbr_lightning.") or not name.isidentifier():
        return False
    try:
        found = find_spec(module)
    except ModuleNotFoundError:  # what surrounds the name is no module
        return False
    file = Path((found and found.origin) or "")
    return file.is_file() and bool(re.search(rf"^def {name}\(", file.read_text("utf-8"), re.M))


def _rename_tasks(suite: Any) -> None:
    """Move the questions of a suite that an earlier version saved to their present place."""
    if (choices := suite.pop("choices", None)) is not None:
        suite["lm_eval"] = [*choices, *suite.get("lm_eval", ())]
    own = "microworld_choice"
    suite["lm_eval"] = [own if name == "microworld" else name for name in suite.get("lm_eval", ())]
    if suite.get("name") == "smoke" and own not in suite.get("tasks", {}):
        suite["tasks"] = {own: "tbr_lightning.microworld.plugin.choice_task"}
        suite["only_for"] = "microworld"


def _literal(part: Any) -> Any:
    """Return saved values with every ``${`` escaped: what was saved was resolved before.

    Otherwise a config from somebody else's run folder could name variables of the environment, and
    their values would be logged.
    """
    if isinstance(part, dict):
        return {key: _literal(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_literal(value) for value in part]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", part) if isinstance(part, str) else part


def restored(kind: type[T], saved: Any, **instead: Any) -> T:
    """Return a config of a command as it was saved, by this version or an earlier one.

    Raises:
        UserError: It names a target that its place cannot hold; nothing of it is imported.

    Args:
        kind: Schema of the command.
        saved: Mapping that OmegaConf read from the file.
        instead: Values that replace saved ones.
    """
    node = OmegaConf.create(_literal(OmegaConf.to_container(saved)))
    structured = OmegaConf.structured(kind)
    for name, part in node.items():
        if not isinstance(part, DictConfig):
            continue
        if name in HOLDERS:
            nested(part)
        if (target := part.get("_target_")) is not None:
            part["_target_"] = RENAMED.get(target, target)
        if (pretraining := part.get("pretraining")) and "_target_" not in pretraining:
            pretraining["_target_"] = "tbr_lightning.microworld.plugin.base"
            pretraining["data"] = "microworld"
        if name in ("suite", "probe"):
            _rename_tasks(part)
    check_saved(OmegaConf.to_container(node))  # type: ignore[arg-type]
    for name, part in node.items():
        if not isinstance(part, DictConfig):
            continue
        if (schema := schema_of(part.get("_target_"))) is not None:
            structured[name] = OmegaConf.structured(schema)
    made: T = OmegaConf.to_object(OmegaConf.merge(structured, node, instead))  # type: ignore[assignment]
    return made
