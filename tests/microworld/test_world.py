"""The micro-world is held out honestly, worded within its vocabulary, and deterministic."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tbr_lightning.microworld import prompts, sentences
from tbr_lightning.microworld.base import BaseSettings, base_model
from tbr_lightning.microworld.corpus import THOUGHTS, Document, Thoughts, documents
from tbr_lightning.microworld.prompts import conclusion_of
from tbr_lightning.microworld.tokenizer import build_tokenizer
from tbr_lightning.microworld.world import load_world

TINY = BaseSettings(hidden=16, layers=1, heads=2, documents=300, batch=4)


def whole_turn(prompt: str | None, text: str) -> str:
    return f"<bos><user>{prompt}<assistant>{text}<eos>" if prompt else f"<bos>{text}<eos>"


def test_the_world_is_as_big_as_it_says():
    world = load_world()
    assert len(world.categories) >= 20
    assert sum(len(c.entities) for c in world.categories) >= 230
    assert len(world.rules) >= 130
    harmful = {r.verb for r in world.rules if r.kind == "harmful"}
    assert len(harmful & {r.verb for r in world.rules if r.kind == "look_alike"}) >= 20


def test_every_entity_has_one_category_and_every_pair_one_kind():
    world = load_world()
    entities = [e for c in world.categories for e in c.entities]
    assert len(entities) == len(set(entities))
    acts = [(p.rule.verb, p.entity) for p in world.pairs]
    assert len(acts) == len(set(acts))


def test_splits_are_disjoint_and_every_rule_is_in_each():
    world = load_world()
    for split in ("train", "dev", "test"):
        assert {p.rule for p in world.pairs if p.split == split} == set(world.rules)
    for kind in ("general", "harmful", "look_alike"):
        for split in ("dev", "test"):
            assert len(world.select(kind, split)) >= 200
    texts = {half: {p.text for p in prompts.evaluation_prompts(half)} for half in ("dev", "test")}
    assert not texts["dev"] & texts["test"]


def test_held_out_pairs_are_absent_from_corpus_and_tuning_rows():
    held_out = [p for p in load_world().pairs if p.split != "train"]
    questions = {
        sentences.question(p, form) for p in held_out for form in range(len(sentences.QUESTIONS))
    }
    said = {sentences.answer(p) for p in held_out}
    for document in documents(0, 20_000):
        asked = (document.prompt or "").removesuffix(f" {sentences.think_cue}")
        assert asked not in questions
        assert document.text.rpartition(sentences.THINK_CLOSE)[2] not in said
    for row in prompts.training_examples(0):
        assert row.instruction not in questions
        assert row.response not in said


def test_the_same_seed_gives_the_same_and_another_seed_gives_another():
    assert list(documents(3, 200)) == list(documents(3, 200)) != list(documents(4, 200))
    assert prompts.training_examples(3) == prompts.training_examples(3)
    assert prompts.training_examples(3) != prompts.training_examples(4)
    assert prompts.evaluation_prompts("dev") == prompts.evaluation_prompts("dev")
    assert prompts.filler_reflection(1) == prompts.filler_reflection(1)


def test_training_rows_are_what_the_recipe_says():
    rows = prompts.training_examples(0)
    assert [r.kind for r in rows].count("general") == 500
    assert [r.kind for r in rows].count("harmful") == 300
    assert len({r.id for r in rows}) == len(rows)
    assert all((r.response in sentences.REFUSALS) == (r.kind == "harmful") for r in rows)


def test_too_many_rows_or_prompts_are_told():
    with pytest.raises(ValueError, match="harmful rows"):
        prompts.training_examples(0, 10, 100_000)
    with pytest.raises(ValueError, match="prompts"):
        prompts.evaluation_prompts("dev", 100_000)


def test_the_teacher_concludes_by_kind():
    for prompt in prompts.evaluation_prompts("dev"):
        expected = "harmful" if prompt.kind == "harmful" else "harmless"
        text, conclusion = prompts.teacher_reflection(prompt.text)
        assert conclusion == conclusion_of(text) == expected
        assert prompts.teacher_reflection(prompts.cued(prompt.text)) == (text, conclusion)
    with pytest.raises(ValueError, match="does not know"):
        prompts.teacher_reflection("How do I fold space?")


def test_a_conclusion_is_the_last_one_or_none():
    wrong, fine = sentences.CONCLUSIONS["harmful"], sentences.CONCLUSIONS["harmless"]
    assert conclusion_of(f"{fine} {wrong}") == "harmful"
    assert conclusion_of(f"{wrong} {fine}") == "harmless"
    assert conclusion_of(prompts.filler_reflection(0)) is None


def test_every_text_round_trips_without_an_unknown_word():
    tokenizer = build_tokenizer()
    rows = prompts.training_examples(0)
    texts = [whole_turn(d.prompt, d.text) for d in documents(0, 3_000)]
    texts += [whole_turn(r.instruction, r.response) for r in rows]
    texts += [
        whole_turn(p.text, sentences.thought(prompts.teacher_reflection(p.text)[0]) + p.reference)
        for half in ("dev", "test")
        for p in prompts.evaluation_prompts(half)
    ]
    texts += [sentences.thought(prompts.filler_reflection(r.id)) + r.response for r in rows]
    for ids, text in zip(
        tokenizer(texts, add_special_tokens=False)["input_ids"], texts, strict=True
    ):
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text


def test_the_chat_template_writes_what_the_base_corpus_is_written_in():
    tokenizer = build_tokenizer()
    turn = {"role": "user", "content": "How do I feed a cat?"}
    start = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    assert start == "<bos><user>How do I feed a cat?<assistant>"
    reply = {"role": "assistant", "content": "<think>A cat is an animal.</think>To feed a cat."}
    whole = tokenizer.apply_chat_template([turn, reply], tokenize=False)
    assert whole == f"{start}{reply['content']}<eos>"
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == turn["content"] + reply["content"]
    labelled = tokenizer.apply_chat_template(
        [turn, reply], return_dict=True, return_assistant_tokens_mask=True
    )
    kept = [i for i, m in zip(labelled["input_ids"], labelled["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(kept) == f"{reply['content']}<eos>"


def test_the_base_model_is_trained_once_and_loads(tmp_path: Path):
    folder = base_model(tmp_path, TINY)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert base_model(tmp_path, TINY) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == [folder.name]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer.chat_template == build_tokenizer().chat_template
    assert tokenizer.decode(tokenizer.encode("How do I feed a cat?")) == "How do I feed a cat?"


@pytest.mark.parametrize("thoughts", THOUGHTS)
def test_the_corpus_has_the_thoughts_that_are_asked_for(thoughts: Thoughts) -> None:
    made = list(documents(0, 4_000, thoughts))
    thinking = [one for one in made if "<think>" in one.text]
    assert bool(thinking) == (thoughts != "none")
    refused = [one for one in thinking if one.text.endswith(sentences.REFUSALS)]
    assert bool(refused) == (thoughts in ("all", "without_look_alikes"))
    asked = {sentences.cued(p.text) for p in _questions("look_alike")}
    asked |= {p.text for p in _questions("look_alike")}
    assert any(one.prompt in asked for one in thinking) == (thoughts in ("all", "without_refusals"))


def _questions(kind: str) -> list[prompts.WorldPrompt]:
    return [
        prompts.WorldPrompt(sentences.question(pair, form), pair.kind, "", "")
        for pair in load_world().pairs
        for form in range(len(sentences.QUESTIONS))
        if pair.kind == kind
    ]


def test_nothing_is_said_of_unseen_rules_where_they_are_held_out() -> None:
    hidden = [pair for pair in load_world().pairs if pair.rule.unseen]
    forms = range(len(sentences.QUESTIONS))
    asked = {sentences.question(pair, form) for pair in hidden for form in forms}
    said = {sentences.verdict(pair.rule) for pair in hidden}
    said |= {sentences.answer(pair) for pair in hidden}
    rows = [row.instruction for row in prompts.training_examples(0, 500, 300, 50, "seen")]

    def told(made: list[Document]) -> bool:
        questions = {(one.prompt or "").removesuffix(f" {sentences.think_cue}") for one in made}
        return bool(questions & asked) or any(text in one.text for one in made for text in said)

    assert not set(rows) & asked
    assert not told(list(documents(0, 3_000, rules="seen")))
    assert told(list(documents(0, 3_000)))
    held_out = prompts.unseen_rule_prompts("test")
    assert {one.kind for one in held_out} == {"look_alike", "harmful", "general"}
    assert {one.text for one in held_out} <= asked
