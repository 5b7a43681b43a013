"""Our decoder behind lm-eval's interface gives what its own `hf` model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.lm_eval_model import EngineLM
from tbr_lightning.models.backbone import Backbone, load_folder

ASKED = ["How do I thank the neighbor?", "What is the best way to thank a nurse?", "Why?"]


@pytest.fixture(scope="module")
def backbone(base_folder: Path) -> Backbone:
    return load_folder(base_folder, origin="base", thinks=True, dtype="float32")


@pytest.fixture(scope="module")
def theirs(backbone: Backbone) -> Any:
    return hf_model(backbone)


def hf_model(backbone: Backbone) -> Any:
    # Its own choice of a longest context is not the model's.
    room = EngineLM(backbone).max_length
    return HFLM(
        pretrained=backbone.model,
        tokenizer=backbone.tokenizer,
        batch_size=2,
        max_length=room,
        max_batch_size=2,
    )


def requests(kind: str, *arguments: Any) -> list[Instance]:
    return [
        Instance(kind, {}, args, n, metadata=("task", n, 1)) for n, args in enumerate(arguments)
    ]


def pairs(lm: EngineLM) -> list[tuple[str, str]]:
    said = [lm.apply_chat_template([{"role": "user", "content": text}]) for text in ASKED]
    options = ("Say it kindly.", "No", " I do not know what that is, sorry.")
    return [
        *((text, option) for text in said for option in options),
        ("How do I", " thank a nurse?"),
        ("Trailing blanks ", "belong to what follows"),
        ("", "No context at all"),
    ]


def test_likelihoods(backbone: Backbone, theirs: Any) -> None:
    ours = EngineLM(backbone, batch_size=4)
    asked = requests("loglikelihood", *pairs(ours))
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    found = ours.loglikelihood(asked)
    for (total, greedy), (one, other) in zip(found, expected, strict=True):
        assert total == pytest.approx(one, abs=1e-3)
        assert greedy == other


def test_likelihoods_of_whole_texts(base_folder: Path) -> None:
    # In float64: two orders of summing thousands of unlikely tokens differ in float32. Positions
    # and norms are computed in float32 all the same.
    exact = load_folder(base_folder, origin="base", thinks=True, dtype="float32")
    exact.model.double()
    ours, theirs = EngineLM(exact), hf_model(exact)
    texts = [(" ".join(ASKED),), ("A text that is longer than the context. " * 200,)]
    asked = requests("loglikelihood_rolling", *texts)
    assert len(ours.tok_encode(texts[1][0])) > ours.max_length
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(expected, rel=5e-4)


def test_generation_until_a_text(backbone: Backbone, theirs: Any) -> None:
    ours = EngineLM(backbone)
    said = [ours.apply_chat_template([{"role": "user", "content": text}]) for text in ASKED]
    whole = requests(
        "generate_until", *((text, {"until": [], "max_gen_toks": 24}) for text in said)
    )
    expected = theirs.generate_until(whole, disable_tqdm=True)
    found = ours.generate_until(whole)
    assert [text.strip() for text in found] == [text.strip() for text in expected]
    stop = found[0].split()[2]
    short = requests(
        "generate_until", *((text, {"until": [stop], "max_gen_toks": 24}) for text in said)
    )
    assert ours.generate_until(short) == [text.split(stop)[0] for text in found]


def test_a_stop_text_ends_a_row_and_counts_in_the_answer_alone(backbone: Backbone) -> None:
    ours = EngineLM(backbone)
    opened, closed = backbone.think_format.think_open, backbone.think_format.think_close
    ends = ours._ends(["nurse"])

    def tokens(text: str) -> list[int]:
        return list(backbone.tokenizer.encode(text, add_special_tokens=False))

    assert ends(tokens("thank a nurse"))
    assert not ends(tokens("thank a neighbor"))
    assert not ends(tokens(f"{opened}thank a nurse"))
    assert ends(tokens(f"{opened}thank a neighbor{closed}thank a nurse"))
    assert ours._cut(f"{opened}a nurse{closed}thank a nurse", ["nurse"]) == "thank a "


def test_what_is_longer_than_the_context_is_not_asked(backbone: Backbone) -> None:
    ours = EngineLM(backbone)
    ours.max_length = 30
    long = "thank the neighbor " * 30
    asked = requests("loglikelihood", (long, "a nurse"), ("thank", " a nurse"))
    scores = ours.loglikelihood(asked)
    assert scores[0][0] != scores[0][0]
    assert scores[1][0] < 0
    until = {"until": [], "max_gen_toks": 4}
    answers = ours.generate_until(requests("generate_until", (long, until), ("thank", until)))
    assert answers[0] == ""
    assert ours.unasked == {("task", 0)}


def test_a_question_that_is_sampled_several_times_gets_several_answers(backbone: Backbone) -> None:
    """The harness lists the same request as often as its task says (`repeats`)."""
    ours = EngineLM(backbone, batch_size=4)
    said = [ours.apply_chat_template([{"role": "user", "content": text}]) for text in ASKED[:2]]
    how = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 2.0}
    one, other = requests("generate_until", *((text, how) for text in said))
    found = ours.generate_until([*[one] * 6, *[other] * 6])
    assert len(set(found[:6])) > 1
    assert len(set(found[6:])) > 1
    assert ours.generate_until([one] * 6) == found[:6]  # whatever else is asked
    greedy = requests("generate_until", (said[0], {"until": [], "max_gen_toks": 12}))
    assert len(set(ours.generate_until(greedy * 3))) == 1


def test_sampling_that_our_decoder_lacks_is_told(backbone: Backbone) -> None:
    how = {"until": [], "max_gen_toks": 4, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    with pytest.raises(UserError, match=r"task samples with top_p=0\.9"):
        EngineLM(backbone).generate_until(requests("generate_until", ("Why?", how)))
    greedy = {**how, "do_sample": False}
    assert len(EngineLM(backbone).generate_until(requests("generate_until", ("Why?", greedy)))) == 1
