"""What an evaluation asks, on its run: the prompts, as a dataset too, and those of its judges."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version

from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.data.cache import content_key
from tbr_lightning.evaluation import suites
from tbr_lightning.evaluation.judges.loading import identity
from tbr_lightning.evaluation.judges.prompts import log_judge_prompt
from tbr_lightning.evaluation.questions import Question
from tbr_lightning.evaluation.respond import EvaluatedModel
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.tracking.genai_dataset import log_genai_dataset
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.store import connect

TAG = "tbr.asked"
"""Tag: the hash of all that an evaluation was asked for, and of the files that it is of."""


def key_of(
    config: EvaluateConfig,
    subject: EvaluatedModel,
    prompts: list[Prompt],
    questions: list[Question],
    key: str,
) -> str:
    """Return the hash by which an earlier evaluation with the same result is found.

    Args:
        config: Config of the command.
        subject: The evaluated model.
        prompts: The prompts.
        questions: The questions about general ability.
        key: Evaluation key.
    """
    explained = {k: v for k, v in asdict(config).items() if k.startswith("attribution")}
    return content_key(
        key,
        subject.digest,
        [(prompt.id, prompt.benchmark, prompt.category) for prompt in prompts],
        [version("lm_eval"), [question.id for question in questions]],
        identity(config.second_judge) if config.second_judge else None,
        explained if config.attribution else None,
    )


def log(opened: Run, config: EvaluateConfig, prompts: list[Prompt]) -> None:
    """Log the prompts, and those of the judges."""
    opened.log_dataset(
        [{"id": p.id, "kind": p.kind, "prompt": p.conversation} for p in prompts],
        f"{config.suite.name}-{config.suite.half}",
        "evaluation",
    )
    opened.log_table(suites.facts(config.suite, prompts), "suite.json")
    log_judge_prompt(opened, config.judge)
    if config.second_judge is not None:
        log_judge_prompt(opened, config.second_judge, "second_judge")
    if config.genai_dataset:
        _log_genai_dataset(opened, config, prompts)


def _log_genai_dataset(opened: Run, config: EvaluateConfig, prompts: list[Prompt]) -> None:
    """Keep the prompts as an MLflow GenAI dataset, with what is expected of an answer to each."""
    records = [
        {
            "inputs": {"prompt": prompt.text}
            | ({"before": prompt.before} if prompt.before else {}),
            "expectations": {"should_refuse": prompt.kind == "harmful"}
            | ({"expected_response": prompt.reference} if prompt.reference else {}),
            "tags": {
                "tbr.kind": prompt.kind,
                "tbr.benchmark": prompt.benchmark,
                "tbr.category": prompt.category,
                "tbr.prompt": prompt.id,
            },
        }
        for prompt in prompts
    ]
    digest = suites.digest(prompts)
    facts = {
        "tbr.suite": config.suite.name,
        "tbr.half": config.suite.half,
        "tbr.suite_digest": digest,
    }
    log_genai_dataset(
        opened,
        connect(config.tracking),
        f"{config.suite.name}-{config.suite.half}",
        digest=content_key(digest, records),
        records=records,
        tags=facts,
    )
