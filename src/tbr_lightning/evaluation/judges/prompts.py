"""Prompt files of judges that read one: ``{prompt}`` and ``{answer}`` say where the two go."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.judges.base import Case
from tbr_lightning.tracking.prompts import in_registry, log_prompt, registered_text
from tbr_lightning.tracking.run import Run


def template_of(config: JudgeConfig) -> str:
    """Return the text of a prompt file that says where request and answer go.

    Raises:
        UserError: There is no such file, or it lacks a placeholder.
    """
    text = text_of(config)
    for name in ("{prompt}", "{answer}"):
        if name not in text:
            raise UserError(f"judge.prompt='{config.prompt}' has no {name}: say where it goes")
    return text


def text_of(config: JudgeConfig) -> str:
    """Return the text of the judge's prompt file: ``judge.prompt``, or the shipped one.

    Raises:
        UserError: There is no such file.
    """
    if config.prompt is None:
        shipped = resources.files("tbr_lightning.evaluation") / "prompts" / f"{config.name}.txt"
        if not shipped.is_file():
            raise UserError(
                f"judge.prompt is not set: none is shipped for judge={config.name}, whose "
                f"authors publish the prompt that it was trained on with {config.hub_id}; give it "
                "as a file with {prompt} and {answer}"
            )
        return shipped.read_text(encoding="utf-8")
    if in_registry(config.prompt):
        return registered_text(config.prompt, "judge.prompt")
    if not Path(config.prompt).is_file():
        raise UserError(
            f"judge.prompt='{config.prompt}' is not a file: give the path of a prompt file"
        )
    return Path(config.prompt).read_text(encoding="utf-8")


def log_judge_prompt(run: Run, config: JudgeConfig, role: str = "judge") -> None:
    """Keep the judge's prompt in the prompt registry, if it reads one, with its version on a run.

    Args:
        run: Run that the judge works for.
        config: Config of the judge.
        role: What it is to the run: ``judge`` or ``second_judge``.
    """
    shipped = resources.files("tbr_lightning.evaluation") / "prompts" / f"{config.name}.txt"
    if not config.chat and (config.prompt is not None or shipped.is_file()):
        log_prompt(run, role, f"tbr-judge-{config.name}", text_of(config))


def filled(template: str, case: Case) -> str:
    """Return a template with a case in it; placeholders within the case stay as they are."""
    parts = {"{prompt}": case.prompt, "{answer}": case.answer}
    return re.sub(r"\{prompt\}|\{answer\}", lambda found: parts[found[0]], template)
