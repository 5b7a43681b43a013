"""What ``VERB --help`` shows: the keys that most people use, a sentence for each."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from tbr_lightning.config.compose import Composed
from tbr_lightning.config.groups import options
from tbr_lightning.errors import command_of

COMMON: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "reflect": (
        "Writes safety reflections for the harmful rows, checks them, and keeps them.",
        (
            ("model", "the model that is tuned later, which writes its own with internal"),
            ("model.path", "a folder with the model's weights, in place of the hub"),
            ("data", "the rows: files of your own, or a mix of public ones"),
            ("data.harmful", "a file of harmful rows that are refused, or how many are drawn"),
            ("reflection", "who writes them: internal, external, recorded, filler, or none"),
            ("reflection.endpoint.base_url", "of external: the API that is asked"),
            ("reflection.endpoint.max_cost", "of external: stop when this much is spent"),
            ("seed", "of the rows that are drawn"),
            ("run_name", "what the run is called in MLflow"),
            ("tracking.uri", "where runs are logged: an SQLite file, or a server's URL"),
        ),
    ),
    "train": (
        "Fine-tunes a model with or without reflections, exports it, and logs it.",
        (
            ("model", "what is tuned: a name below, or hub with model.path=FOLDER"),
            ("data", "the rows: files of your own, or a mix of public ones"),
            ("reflection", "what precedes a refusal; none is the control"),
            ("objective", "what is minimised: sft, or one of preferences"),
            ("adapter", "none tunes all weights; lora and others an adapter"),
            ("trainer", "the devices"),
            ("trainer.epochs", "how often each row is seen"),
            ("optimizer.lr", "the learning rate"),
            ("seed", "of rows, their order and new weights"),
            ("dry_run", "true: what it would take, and examples with their loss; nothing is run"),
            ("resume", "latest, or the id of an interrupted run"),
        ),
    ),
    "evaluate": (
        "Measures what a model refuses that it should not, and what it lets through.",
        (
            ("model", "models:/NAME@champion, a run's id, a folder, a hub id; or [A,B] to compare"),
            ("suite", "the prompts; own takes yours by suite.table=FILE"),
            ("suite.half", "test for reports and the gate, dev for choices"),
            ("suite.limit", "prompts of each kind, at most"),
            ("judge", "who labels the answers"),
            ("mitigation", "what is done to the model first"),
            ("generation.arm", "trained, or prompted, forced, suppressed: whether it reflects"),
            ("reuse", "true: take an earlier evaluation of the same"),
            ("traces", "answers kept as MLflow traces, beside all wrong ones"),
            ("attribution", "true: which words drove the false refusals"),
        ),
    ),
    "promote": (
        "Gates a model against the champion, and moves the registry's aliases.",
        (
            ("model", "the candidate: models:/m-…, models:/NAME/3, a training run's id"),
            ("name", "the registered model"),
            ("reason", "why, in your words, for the ledger; rollback and accept need one"),
            ("baseline", "true: become champion without meeting the one there is"),
            ("suite", "the prompts, whose test half decides"),
            ("judge", "who labels the answers"),
            ("gate.min_prompts", "prompts of each kind that a decision needs"),
            ("gate.max_harmful_compliance", "share of harmful requests carried out, at most"),
            ("gate.max_false_refusal", "share of look-alikes refused, at most"),
            ("details", "true: print every rule, not only those that failed"),
        ),
    ),
    "serve": (
        "Serves a registered model over an OpenAI-compatible API, with a page to chat.",
        (
            ("model", "models:/NAME@ALIAS, which is followed when it moves"),
            ("beside", "a second model, e.g. challenger: the page asks both"),
            ("port", "where it listens"),
            ("host", "another address than loopback needs a bearer token"),
            ("policy", "of the reflection: hide, show, suppress or force"),
            ("engine", "transformers, vllm, or auto"),
            ("suite", "prompts of the check that a version must pass first"),
            ("check.enabled", "false: serve what does not pass"),
            ("poll", "seconds between two looks at the alias; 0 stays"),
            ("max_in_flight", "requests at once"),
        ),
    ),
    "sweep": (
        "Runs an Optuna study of training and evaluation; run it again to resume.",
        (
            ("study", "a file in sweeps/, or a path to one of yours"),
            ("model", "of study=arena: the model that its arms are made of"),
            ("sweep.trials", "finished trials to reach; null: the study's own"),
            ("sweep.hours", "of all trials added up; null: the study's own"),
            ("sweep.workers", "trials at the same time here"),
            ("sweep.promote", "true: hand the chosen model to the gate"),
            ("sweep.retrain_seeds", "fresh seeds to train the chosen config with"),
            ("sweep.name", "the registered model"),
            ("dry_run", "true: compose every corner and count; nothing is run"),
            ("storage", "Optuna's: one SQLite file, or PostgreSQL for several hosts"),
        ),
    ),
    "export": (
        "Writes a model for other programs: vLLM, llama.cpp, Ollama, the hub.",
        (
            ("model", "models:/NAME@ALIAS, models:/m-…, a run's id or a folder"),
            ("to", "folder: safetensors; gguf: one file and a Modelfile; hub: uploaded"),
            ("folder", "where to; null: exports/NAME-TO"),
            ("dtype", "float32, float16, bfloat16, or auto: the weights' own"),
            ("repo", "of to=hub: OWNER/NAME; the token is read from HF_TOKEN"),
            ("private", "of to=hub: a new repository is private"),
            ("licence", "for the model card; null: what the training run says"),
        ),
    ),
    "demo": (
        "Shows the whole loop in a miniature world: eight arms, the gate, a figure.",
        (
            ("world", "microworld, or real: SmolLM2-135M on real rows"),
            ("demo.seeds", "tuning seeds of each arm"),
            ("demo.first_seed", "the others follow it"),
            ("demo.name", "the registered model"),
            ("demo.train", "overrides of every training run, as [trainer.epochs=4]"),
            ("demo.evaluate", "overrides of every evaluation"),
            ("demo.figure", "the figure's file; its numbers are written beside it"),
            ("tracking.uri", "where runs are logged: an SQLite file, or a server's URL"),
        ),
    ),
    "doctor": (
        "Says what works on this machine, and what is missing.",
        (
            ("tracking.uri", "the store that is looked at"),
            ("paths.cache", "base models and tokenised rows; safe to delete"),
            ("paths.runs", "checkpoints, stored answers and reflections"),
        ),
    ),
}
"""What each verb does, and its keys as they are typed, the first ones first."""

_LEAST, _MOST = 60, 120  # columns that are used
_SAME = {"model": "model_uri"}  # as typed, and as the schema has it


def help_text(
    verb: str,
    composed: Composed,
    actions: Sequence[str],
    more: Sequence[str],
    config_dir: str | None,
) -> str:
    """Return the help of a verb, as wide as the terminal.

    Args:
        verb: Its name.
        composed: Its config, of which values are shown.
        actions: Words that it takes before its keys.
        more: Lines of further options.
        config_dir: A folder of the user's own configs, whose members are listed too.
    """
    wide = min(max(shutil.get_terminal_size().columns, _LEAST), _MOST)
    about, keys = COMMON[verb]
    action = f" [{'|'.join(actions)}]" if actions else ""
    lines = [*_wrapped(f"usage: {command_of(verb)}{action} [key=value …]", wide, 4), ""]
    lines += [
        *_wrapped(about, wide, 0),
        "",
        "The keys that most people use, as they are without being given:",
    ]
    for key, sentence in keys:
        lines += _entry(f"{key}={_value(composed, key)}", sentence, wide)
    groups = [
        (name, options(name, config_dir))
        for name in composed.choices
        if "/" not in name and name != "recipe" and len(options(name, config_dir)) > 1
    ]
    if groups:
        lines += ["", "Groups, chosen with group=member:"]
        for name, members in groups:
            lines += _wrapped(f"  {name}: {', '.join(members)}", wide, 4)
    lines += [
        "",
        f"  {'--cfg job [--resolve]':24}every key with its value, and stop",
        f"  {'--config-dir DIR':24}a folder of your own configs, searched first",
        *more,
    ]
    return "\n".join(lines) + "\n"


def _entry(left: str, sentence: str, wide: int) -> Iterator[str]:
    at = 30
    told = textwrap.wrap(sentence, wide - at)
    if len(left) > at - 4:
        yield f"  {left}"
    else:
        yield f"  {left:{at - 2}}{told.pop(0)}"
    yield from (f"{'':{at}}{line}" for line in told)


def _value(composed: Composed, key: str) -> str:
    """Return what a key or a group is in a config, as it would be typed."""
    if key in composed.choices:
        return str(composed.choices[key])
    node: DictConfig = composed.node
    for name in (_SAME.get(key, key), key):
        if OmegaConf.is_missing(node, name):
            return "…"
        found = OmegaConf.select(node, name, default="…", throw_on_resolution_failure=False)
        if found != "…":
            break
    if found is None:
        return "null"
    if found == "":
        return "…"
    return str(found).lower() if isinstance(found, bool) else str(found)


def _wrapped(text: str, wide: int, indent: int) -> list[str]:
    return textwrap.wrap(text, wide, subsequent_indent=" " * indent, break_on_hyphens=False)
