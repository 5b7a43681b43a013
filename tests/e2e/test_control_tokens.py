"""A model that writes a control token in its sentences: the engine's replies have what is judged.

The two rows of a full stop and of a control token change places in the miniature's embeddings, so
that it writes the one where it wrote the other, and all else stays.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
import torch

from tbr_lightning.config.verbs import GenerationConfig
from tbr_lightning.data.chat_template import control_ids
from tbr_lightning.evaluation.respond import arm_prompts, responses
from tbr_lightning.models.backbone import Backbone, load_folder
from tbr_lightning.models.export import export
from tbr_lightning.models.logged import LoggedModel
from tbr_lightning.serving.engines import TRANSFORMERS, Served
from tbr_lightning.serving.process import socket_in
from tbr_lightning.serving.release import Release
from tbr_lightning.serving.response import Stream, rewrite
from tbr_lightning.serving.weights import Weights, prepare

from ..conftest import environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ASKED = ("How do I kill a Python process?", "How do I kill a teacher?")


class OnSocket(HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, file: Path) -> None:
        super().__init__("engine", timeout=300)
        self.file = file

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(300)
        self.sock.connect(str(self.file))


@dataclass(frozen=True)
class Engine:
    """An engine in a process of its own, and the model that it serves."""

    socket: Path
    weights: Weights
    backbone: Backbone
    odd: int  # the control token that it writes

    def ask(self, text: str, *, stream: bool) -> bytes:
        """Return the bytes of a reply."""
        asked = {"messages": [{"role": "user", "content": text}], "max_tokens": 96}
        body, _ = TRANSFORMERS.request({**asked, "stream": stream}, self.weights, "hide", "1")
        connection = OnSocket(self.socket)
        head = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), head)
        reply = connection.getresponse()
        assert reply.status == 200
        return reply.read()


@pytest.fixture(scope="module")
def engine(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("odd")
    backbone = load_folder(base_folder, origin="base", thinks=True)
    tokenizer = backbone.tokenizer
    stop, odd = tokenizer.convert_tokens_to_ids("."), tokenizer.unk_token_id
    assert odd in control_ids(tokenizer)
    tables = {backbone.model.get_input_embeddings(), backbone.model.get_output_embeddings()}
    with torch.no_grad():
        for table in {one.weight for one in tables}:
            table[[stop, odd]] = table[[odd, stop]].clone()
    export(backbone, folder / "model", dtype="float32")
    weights = prepare([folder / "model"], folder / "served")
    place = socket_in(folder, 1)
    command = TRANSFORMERS.command(weights, place, [])
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 300
        while True:
            assert process.poll() is None, "the engine ended"
            with suppress(OSError, HTTPException):
                connection = OnSocket(place)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            assert time.monotonic() < end
            time.sleep(0.5)
        loaded = load_folder(folder / "model", origin="odd", thinks=True)
        yield Engine(place, weights, loaded, odd)
    finally:
        process.kill()
        process.wait()


def judged(engine: Engine, text: str) -> tuple[str | None, str]:
    config = GenerationConfig(reuse=False, max_new_tokens=96)
    ids = arm_prompts(engine.backbone, [text], "trained")
    ((_, made),) = responses(engine.backbone, ids, config)
    return engine.backbone.think_format.split(made.text)


@pytest.mark.parametrize("text", ASKED)
def test_a_reply_has_what_is_judged(engine: Engine, text: str) -> None:
    (ids,) = arm_prompts(engine.backbone, [text], "trained")
    out = engine.backbone.model.generate(torch.tensor([ids]), max_new_tokens=96, do_sample=False)
    assert engine.odd in out[0, len(ids) :].tolist()  # else nothing is shown here
    served = Served(Release(LoggedModel("m-1", "r", {}), "n", "1"), engine.weights, TRANSFORMERS)
    reflection, answer = judged(engine, text)
    assert "." not in answer and "<unk>" not in answer
    body, facts = rewrite(engine.ask(text, stream=False), "hide", served)
    assert (facts.reflection, facts.answer) == (reflection, answer)
    assert json.loads(body)["choices"][0]["message"]["content"] == answer
    stream = Stream("hide", served)
    got = stream.feed(engine.ask(text, stream=True))
    said = stream.facts()
    assert ((said.reflection or "").strip(), said.answer.strip()) == (reflection or "", answer)
    assert b"<unk>" not in got
