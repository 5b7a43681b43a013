"""A judge that reads a written policy and reasons by it, such as gpt-oss-safeguard.

The policy is the system turn, request and answer are the user's turn. It says how to reply: with
the JSON object of :mod:`.llm`, as the shipped one does, or in any other form for which
``judge.labels`` says which pattern is which label.
"""

from __future__ import annotations

from collections.abc import Sequence

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.evaluation.judges import classifier, llm
from tbr_lightning.evaluation.judges.base import Case, Judge, Verdict, on_answered
from tbr_lightning.evaluation.judges.endpoint_judge import ask, check_endpoint
from tbr_lightning.evaluation.judges.prompts import filled, text_of

_CONTENT = "<<<REQUEST\n{prompt}\nREQUEST>>>\n\n<<<ANSWER\n{answer}\nANSWER>>>"


def build(config: JudgeConfig) -> Judge:
    """Return the judge.

    Raises:
        UserError: Neither endpoint nor model is named, or the policy file is missing.
    """
    check_endpoint(config)
    policy = text_of(config)

    def parsed(reply: str) -> Verdict:
        if config.labels:
            return classifier.parsed(llm.after_thoughts(reply), config.labels)
        return llm.parsed(reply)

    def label(cases: Sequence[Case]) -> list[Verdict]:
        asked = [
            [
                {"role": "system", "content": policy},
                {"role": "user", "content": filled(_CONTENT, case)},
            ]
            for case in cases
        ]
        return ask(asked, config, parsed)

    return lambda cases: on_answered(cases, label)
