"""The embedded micro-world: a made miniature in which the Think-Before-Refusal effect shows.

It shows known reasoning being elicited in a toy; it is never evidence about real language models.

Modules:
    world: What things are and what may be done to them (``lexicon.yaml``), and the pair splits.
    sentences: How the world is worded.
    corpus: The documents that the tiny base model is trained on.
    prompts: Tuning rows, held-out prompts, the recorded teacher, the filler.
    tokenizer: A word-level tokenizer with a chat template.
    base: The tiny base model, trained once and cached by content.
"""
