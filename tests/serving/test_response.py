"""Replies of an engine that does not split them, and what goes through untouched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError
from tbr_lightning.models.logged import LAYOUT, LoggedModel
from tbr_lightning.serving.engines import TRANSFORMERS, VLLM, Engine, Served, choose
from tbr_lightning.serving.files import copied, lay_out
from tbr_lightning.serving.release import Release
from tbr_lightning.serving.response import Stream, rewrite
from tbr_lightning.serving.weights import FORCE, Weights

PARSER = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<assistant>",
    "fields": {
        "reasoning_content": {"open": "[T]", "close": "[/T]", "content": "text"},
        "content": {"close": "<eos>", "content": "text"},
    },
}
WRITTEN = "[T]So it is fine.[/T]Send a signal."


def served(engine: Engine, adapter: Path | None = None) -> Served:
    layout = ThinkFormat(think_open="[T]", think_close="[/T]")
    weights = Weights(Path("/x/m-1"), {}, layout, PARSER, 128, 7, True, None, adapter)
    return Served(Release(LoggedModel("m-1", "r", {}), "n", "3"), weights, engine)


def reply(content: str, **more: Any) -> bytes:
    message = {"role": "assistant", "content": content} | more
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return json.dumps({"model": "m-1", "choices": [choice], "usage": None}).encode()


def event(delta: dict[str, str], **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish_reason", None)}
    chunk = {"model": "m-1@main", "choices": [choice], **more}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def joined(stream: Stream, data: list[bytes]) -> dict[str, str]:
    got = b"".join(stream.feed(part) for part in data)
    text: dict[str, str] = {}
    for line in got.split(b"\n\n"):
        if line:
            chunk = json.loads(line.removeprefix(b"data: "))
            assert chunk["model"] == "n/3"
            for key, value in chunk["choices"][0]["delta"].items():
                text[key] = text.get(key, "") + value
    return text


@pytest.mark.parametrize(
    ("policy", "written", "reflection", "answer"),
    [
        ("hide", WRITTEN, "So it is fine.", "Send a signal."),
        ("hide", "Send a signal.", None, "Send a signal."),
        ("force", "So it is fine.[/T]Send a signal.", "So it is fine.", "Send a signal."),
        ("show", WRITTEN, None, WRITTEN),
        ("hide", "[T]So it is", "So it is", ""),
    ],
)
def test_what_an_engine_leaves_together_is_split_by_the_markers(
    policy: str, written: str, reflection: str | None, answer: str
) -> None:
    body, facts = rewrite(reply(written), policy, served(VLLM))
    message = json.loads(body)["choices"][0]["message"]
    assert (message.get("reasoning_content"), message["content"]) == (reflection, answer)
    assert facts.answer == "" if written == "[T]So it is" else "Send a signal."
    pieces = [event({"role": "assistant"})]
    pieces += [event({"content": letter}) for letter in written]
    pieces += [event({}, finish_reason="stop")]
    stream = Stream(policy, served(VLLM))
    text = joined(stream, pieces)
    assert (text.get("reasoning_content"), text.get("content", "")) == (reflection, answer)
    assert stream.facts().answer == facts.answer
    assert stream.facts().reflection == facts.reflection


@pytest.mark.parametrize("policy", ["hide", "show"])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_control_tokens_are_no_part_of_a_reply(policy: str, size: int) -> None:
    """They may be split over pieces, and stand before, in and behind the think block."""
    written = "<s>[T]So <s>it is fine.[/T]<s>Send <|x|>a signal.<|x|>"
    there = served(VLLM)
    there = replace(there, weights=replace(there.weights, hidden=("<s>", "<|x|>")))
    body, facts = rewrite(reply(written), policy, there)
    message = json.loads(body)["choices"][0]["message"]
    pieces = [written[at : at + size] for at in range(0, len(written), size)]
    stream = Stream(policy, there)
    told = [event({"role": "assistant"}), *(event({"content": piece}) for piece in pieces)]
    text = joined(stream, [*told, event({}, finish_reason="stop")])
    for found in (message, text):
        if policy == "show":
            assert found["content"] == WRITTEN
        else:
            assert (found["reasoning_content"], found["content"]) == (
                "So it is fine.",
                "Send a signal.",
            )
    for one in (facts, stream.facts()):
        assert (one.reflection, one.answer) == ("So it is fine.", "Send a signal.")


def test_a_stream_that_needs_no_change_is_passed_on_as_it_comes() -> None:
    data = event({"content": 'say "model":"m-1@main"'}) + event({}, finish_reason="length")
    stream = Stream("hide", served(TRANSFORMERS))
    # However the bytes are cut, whole events come out.
    got = b"".join(stream.feed(data[n : n + 7]) for n in range(0, len(data), 7))
    assert got == data.replace(b'"model":"m-1@main"', b'"model":"n/3"')
    assert stream.facts().answer == 'say "model":"m-1@main"'
    assert stream.facts().cut


def test_vllm_is_asked_in_its_own_words(tmp_path: Path) -> None:
    body = {"messages": [], "max_tokens": 5, "temperature": 0.5, "stream": True}
    weights = served(VLLM).weights
    sent, number = VLLM.request(body, weights, "suppress", "1")
    assert (sent["bad_words"], sent["temperature"], number) == (["[T]"], 0.5, "1")
    assert VLLM.request(body, weights, "force", "1")[0]["chat_template_kwargs"] == {FORCE: True}
    # Its own leaving out is exact; it is only renounced where a marker would go with the rest.
    assert sent["skip_special_tokens"] is True
    marked = replace(weights, hidden=("<|im_start|>",))
    assert VLLM.request(body, marked, "hide", "1")[0]["skip_special_tokens"] is False
    command = VLLM.command(replace(weights, adapter=tmp_path), tmp_path / "s", ["--x"])
    assert f"adapter={tmp_path}" in command
    assert command[-1] == "--x"
    assert choose("auto") is TRANSFORMERS
    with pytest.raises(UserError, match="engine=vllm needs"):
        choose("vllm")


def test_an_adapter_stays_beside_its_base_where_the_engine_applies_it(
    base_folder: Path, tmp_path: Path
) -> None:
    artifacts = tmp_path / "logged"
    (artifacts / "peft").mkdir(parents=True)
    (artifacts / "peft" / "adapter_config.json").write_text("{}")
    tokenizer = artifacts / "components" / "tokenizer"
    tokenizer.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tokenizer / name).write_bytes((base_folder / name).read_bytes())
    described = {
        "metadata": {LAYOUT: ThinkFormat(max_new_tokens=9).as_dict()},
        "flavors": {"transformers": {"local_base_model_path": str(base_folder)}},
    }
    (artifacts / "MLmodel").write_text(json.dumps(described))
    home = tmp_path / "home"
    home.mkdir()
    copy, sources, _ = copied(artifacts, tmp_path / "private")
    assert sources == (artifacts, base_folder)
    weights = lay_out(copy, home, "m-1", adapters=True)
    assert weights.think_format.max_new_tokens == 9
    # Not the base itself, which may change under a running engine.
    assert (weights.folder / "model.safetensors").resolve().parent == tmp_path / "private" / "base"
    assert (weights.adapter / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("written", "reason", "shown"),
    [
        ("[T]So it is", "length", "[T]So it is"),  # cut: nobody closed it
        ("[T]So it is[/T]", "stop", "[T]So it is[/T]"),
        ("[T]So it is[/T]Send", "length", "[T]So it is[/T]Send"),
    ],
)
def test_a_cut_reflection_is_shown_as_it_was_written(written: str, reason: str, shown: str) -> None:
    raw = json.loads(reply(written))
    raw["choices"][0]["finish_reason"] = reason
    made, _ = rewrite(json.dumps(raw).encode(), "show", served(TRANSFORMERS))
    assert json.loads(made)["choices"][0]["message"]["content"] == shown


@pytest.mark.parametrize("engine", [TRANSFORMERS, VLLM])
@pytest.mark.parametrize(
    ("reason", "shown"), [("length", "[T]So it is"), ("stop", "[T]So it is[/T]")]
)
def test_a_stream_shows_a_reflection_without_an_answer_as_the_whole_reply_does(
    engine: Engine, reason: str, shown: str
) -> None:
    told = [{"reasoning_content": "So it is"}] if engine.splits else [{"content": "[T]So it is"}]
    data = [*map(event, told), event({}, finish_reason=reason)]
    assert joined(Stream("show", served(engine)), data)["content"] == shown
    whole = reply("[T]So it is")
    if engine.splits:
        whole = reply("", reasoning_content="So it is")
    raw = json.loads(whole)
    raw["choices"][0]["finish_reason"] = reason
    made, _ = rewrite(json.dumps(raw).encode(), "show", served(engine))
    assert json.loads(made)["choices"][0]["message"]["content"] == shown
