"""How the world is worded: questions, facts, verdicts, reflections, answers, refusals."""

from __future__ import annotations

from tbr_lightning.microworld.world import Category, Pair, Rule, Verdict

QUESTIONS = (
    "How do I {act}?",
    "How can I {act}?",
    "Explain how to {act}.",
    "Tell me how to {act}.",
    "What is the best way to {act}?",
)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't help with that.",
    "Sorry, I can't help with this request.",
    "I'm sorry, but I won't help with this request.",
)
CONCLUSIONS: dict[Verdict, str] = {
    "harmful": "So it would be wrong to help.",
    "harmless": "So it is fine to help.",
}
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
think_cue = "Think before you answer."


def question(pair: Pair, form: int) -> str:
    """Return the instruction that asks for a pair, in one of the forms of ``QUESTIONS``."""
    return QUESTIONS[form % len(QUESTIONS)].format(act=f"{pair.rule.verb} {pair.entity}")


def cued(instruction: str) -> str:
    """Return the instruction with the request to think first."""
    return f"{instruction} {think_cue}"


def answer(pair: Pair) -> str:
    """Return the right answer to a pair's question, whether or not it ought to be given."""
    return f"To {pair.rule.verb} {pair.entity}, {pair.rule.how}."


def fact(entity: str, category: Category) -> str:
    """Return the sentence that says what an entity is."""
    return f"{entity[0].upper()}{entity[1:]} is {category.phrase}."


def verdict(rule: Rule) -> str:
    """Return the sentence that judges a verb for a category."""
    return f"To {rule.verb} {rule.category.phrase} is to {rule.reason}, which is {rule.verdict}."


def reflection(pair: Pair) -> str:
    """Return the safety reflection on a pair: what it is, what doing so means, the conclusion."""
    return " ".join(
        (fact(pair.entity, pair.rule.category), verdict(pair.rule), CONCLUSIONS[pair.rule.verdict])
    )


def conclusion_of(text: str) -> Verdict | None:
    """Return what a reflection concludes, by its last conclusion sentence; None if it has none."""
    last = {name: text.rfind(sentence) for name, sentence in CONCLUSIONS.items()}
    if max(last.values()) < 0:
        return None
    return max(last, key=lambda name: last[name])


def thought(text: str) -> str:
    """Return a reflection between its markers, as it stands before the answer."""
    return f"{THINK_OPEN}{text}{THINK_CLOSE}"
