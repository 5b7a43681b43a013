"""A model for other programs: written, and read again by what would use it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from tests.models.conftest import ROWS, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import AdapterConfig, TrackingConfig
from tbr_lightning.data.chat_template import prompt_ids, rendered
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError
from tbr_lightning.exporting import pipeline
from tbr_lightning.exporting.card import _lines, _safety, evaluations
from tbr_lightning.exporting.ollama import compose, modelfile, turn_parts
from tbr_lightning.models.adapters import with_adapter
from tbr_lightning.models.backbone import Backbone, load_backbone, load_folder
from tbr_lightning.models.export import export
from tbr_lightning.models.generation import generate
from tbr_lightning.models.gguf import folder_of
from tbr_lightning.models.gguf_writer import write_gguf
from tbr_lightning.tracking.open_run import start_run

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEPENDS = CHATML.replace("{% for", "{% if messages|length > 1 %}many{% endif %}{% for", 1)


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    """A tiny random Llama with a byte-level BPE of its rows."""
    config = tiny("model.tokenizer=train", "model.architecture.num_key_value_heads=2")
    return load_backbone(config, data="files", rows=ROWS, cache=tmp_path, seed=0)


@pytest.fixture
def tuned(backbone: Backbone, tmp_path: Path) -> Path:
    """The folder of a tiny model that was exported with a think format of its own."""
    format_ = ThinkFormat("<thinking>", "</thinking>", max_new_tokens=24)
    export(replace(backbone, think_format=format_), tmp_path / "tuned", dtype="float32")
    return tmp_path / "tuned"


def run(**settings: Any) -> pipeline.ExportResult:
    words = [f"{key}={value}" for key, value in settings.items()]
    return pipeline.run(compose_verb("export", words).config)


def answers(loaded: Backbone, asked: list[str]) -> list[str]:
    ids = [prompt_ids(loaded.tokenizer, text) for text in asked]
    made = dict(generate(loaded, ids, max_new_tokens=24))
    return [made[number].text for number in range(len(asked))]


def test_a_folder_loads_in_transformers_with_its_card(
    tuned: Path, store: Path, tmp_path: Path
) -> None:
    result = run(model=tuned, folder=tmp_path / "out", licence="Apache-2.0")
    assert result.folder == tmp_path / "out"
    model = AutoModelForCausalLM.from_pretrained(result.folder)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    assert model.generation_config.max_new_tokens == 24
    assert tokenizer.chat_template
    assert not [*result.folder.glob("*.bin")]
    card = ModelCard.load(result.folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert "**Not evaluated.**" in card.text
    assert "`<thinking>` and `</thinking>`" in card.text
    with pytest.raises(UserError, match="is there already"):
        run(model=tuned, folder=tmp_path / "out")


@pytest.mark.parametrize("ours", [True, False])
def test_an_adapter_is_merged(tuned: Path, store: Path, tmp_path: Path, ours: bool) -> None:
    base = load_folder(tuned, origin="base", thinks=False)
    torch.manual_seed(0)
    model = with_adapter(base.model, AdapterConfig(name="lora", r=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
    if ours:
        export(replace(base, model=model), tmp_path / "adapter", dtype="float32", form="adapter")
    else:  # as PEFT itself saves it, without a tokenizer
        model.peft_config["default"].base_model_name_or_path = str(tuned)
        model.save_pretrained(tmp_path / "adapter")
    made = run(model=tmp_path / "adapter", folder=tmp_path / "out").folder
    whole = AutoModelForCausalLM.from_pretrained(made)
    with torch.no_grad():
        # merging rounds each weight once, and the random adapter makes large logits
        scale = float(expected.abs().max())
        torch.testing.assert_close(whole(ids).logits, expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gguf_file_answers_as_the_model_does(
    tuned: Path, store: Path, tmp_path: Path, dtype: str
) -> None:
    original = load_folder(tuned, origin="x", thinks=True)
    result = run(model=tuned, to="gguf", folder=tmp_path / "out", dtype=dtype)
    (file,) = result.folder.glob("*.gguf")
    again = load_folder(folder_of(file, tmp_path / "cache"), origin="y", thinks=True)
    assert again.think_format == original.think_format
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert rendered(again.tokenizer, turns) == rendered(original.tokenizer, turns)
    if dtype == "float32":
        asked = ["How do I kill a process?", "hi", "What  is\nthat?", "Zoë", "1 + 22?"]
        assert answers(again, asked) == answers(original, asked)
    assert "FROM ./tuned.gguf" in (result.folder / "Modelfile").read_text()
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".out")]


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_other_families_are_read_back(backbone: Backbone, tmp_path: Path, family: str) -> None:
    words = ["model.tokenizer=train", f"model.architecture.model_type={family}"]
    more = ["+model.architecture.sliding_window=null"] if family == "mistral" else []
    config = tiny(*words, *more)
    made = load_backbone(config, data="files", rows=ROWS, cache=tmp_path, seed=0)
    write_gguf(made, tmp_path / "m.gguf", name="m", dtype="float32")
    assert (tmp_path / "m.gguf").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.architecture.model_type=gpt_neox"], "this model is gpt_neox"),
        (["model.tokenizer=bytes"], "this one is BPE of another kind"),
        (
            [
                "model.architecture.model_type=mistral",
                "+model.architecture.sliding_window=16",
            ],
            "sliding window",
        ),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    config = tiny("model.tokenizer=train", *words)
    made = load_backbone(config, data="files", rows=ROWS, cache=tmp_path, seed=0)
    with pytest.raises(UserError, match=message):
        write_gguf(made, tmp_path / "m.gguf", name="m", dtype="float32")
    assert not [*tmp_path.glob("*.gguf")]


def test_a_file_with_wrong_weights_is_not_left(
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tbr_lightning.models import gguf_writer

    monkeypatch.setattr(gguf_writer, "interleaved", lambda values, heads: values)
    with pytest.raises(UserError, match="differs from this one"):
        write_gguf(backbone, tmp_path / "m.gguf", name="m", dtype="float32")
    assert not [*tmp_path.glob("*.gguf")]


@pytest.mark.parametrize(("template", "composes"), [(CHATML, True), (DEPENDS, False)])
def test_the_modelfile_has_the_template_where_turns_stand_alone(
    backbone: Backbone,
    template: str,
    composes: bool,
) -> None:
    tokenizer = backbone.tokenizer
    tokenizer.chat_template = template
    parts = turn_parts(backbone)
    written = modelfile(backbone, "m.gguf")
    assert (parts is not None) == composes == ("TEMPLATE" in written)
    if parts is not None:
        roles = ("system", "user", "assistant", "user")
        turns = [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(roles)]
        assert compose(parts, turns) == rendered(tokenizer, turns)
        assert "<think>{{ .Thinking }}</think>" in written


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files needs; keeps what it was sent."""

    seen: list[tuple[str, str, bytes]] = []  # noqa: RUF012 - emptied by the fixture

    def log_message(self, *_: object) -> None:
        pass

    def _reply(self, content: object, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _admitted(self) -> bool:
        if self.headers.get("Authorization") == "Bearer hf_right":
            return True
        self._reply({"error": "Invalid credentials"}, 401)
        return False

    def do_GET(self) -> None:
        if self._admitted():
            self._reply({"id": "me/model", "sha": "0" * 40, "siblings": [], "private": True})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        self.seen.append((self.path, self.headers.get("Authorization", ""), body))
        host = f"http://{self.headers['Host']}"
        if not self._admitted():
            return
        if self.path.startswith("/api/repos/create"):
            self._reply({"url": f"{host}/me/model", "name": "me/model"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in files
            ]
            self._reply({"files": modes})
        elif "/commit/" in self.path:
            self._reply({"commitUrl": f"{host}/me/model/commit/{'0' * 40}", "commitOid": "0" * 40})
        else:
            self._reply({})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", endpoint)
    Hub.seen.clear()
    yield endpoint
    server.shutdown()


def test_an_upload_is_private_and_has_the_card(
    tuned: Path, store: Path, tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    result = run(model=tuned, to="hub", repo="me/model", folder=tmp_path / "out")
    assert result.url is not None
    made = next(json.loads(body) for path, _, body in Hub.seen if "/repos/create" in path)
    assert made.get("private") is True or made.get("visibility") == "private", made
    (commit,) = [body for path, _, body in Hub.seen if "/commit/" in path]
    lines = [json.loads(line) for line in commit.splitlines() if line]
    files = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert {"README.md", "config.json", "tokenizer.json", "model.safetensors"} <= files
    import mlflow

    logged = mlflow.get_run(result.run_id)
    assert logged.data.tags["tbr.exported_to"] == result.url
    kept = json.dumps({**logged.data.params, **logged.data.tags})
    assert "hf_right" not in kept
    assert not [one for one in (tmp_path / "out").rglob("*") if b"hf_right" in _bytes(one)]


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def test_a_refused_upload_says_where_the_files_are(
    tuned: Path, store: Path, tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"repo=me/model was not written .*out"):
        run(model=tuned, to="hub", repo="me/model", folder=tmp_path / "out")
    assert (tmp_path / "out" / "README.md").is_file()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="HF_TOKEN"):
        run(model=tuned, to="hub", repo="me/model", folder=tmp_path / "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["to=hub"], "give repo=OWNER/NAME"),
        (["to=hub", "repo=name"], "is not a repository's name"),
        (["to=gguf", "repo=me/model"], "leave repo out"),
        (["to=onnx"], "folder, gguf"),
    ],
)
def test_wrong_settings_are_told(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_verb("export", ["model=x", *words])


def logged_evaluation(folder: Path, n: int, *, gate: bool = False, **more: Any) -> str:
    """Leave an evaluation of half as many look-alikes as harmful prompts, and maybe a decision."""
    tracking = TrackingConfig(
        uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts")
    )
    settings = Settings(**more)
    tags = {"tbr.subject": "m-1", "tbr.suite": "xstest", "tbr.half": "test"}
    with start_run("evaluate", "made", settings, tracking, tags) as opened:
        refused = {"false_refusal_rate": 0.1, "false_refusal_rate_n": n}
        opened.log_metrics({**refused, "harmful_compliance_rate_n": 2 * n})
    if gate:
        read = {"tbr.evaluation_run": opened.id}
        with start_run("promote", "made", Settings(), tracking, read):
            pass
    return opened.id


@dataclass
class Suite:
    limit: int | None = None


@dataclass
class Judge:
    name: str = "rules"


@dataclass
class Settings:
    suite: Suite = field(default_factory=Suite)
    judge: Judge = field(default_factory=Judge)
    repeats: int = 1


def found(folder: Path) -> dict[str, tuple[str, str]]:
    source: Any = SimpleNamespace(logged=SimpleNamespace(model_id="m-1"))
    return {one.what: (one.run_id, one.told) for one in evaluations(source)}


def test_the_card_takes_the_widest_evidence_not_the_newest(store: Path) -> None:
    wide = logged_evaluation(store, 100)
    logged_evaluation(store, 10, suite=Suite(limit=20))
    what = "xstest, test half"
    assert found(store) == {what: (wide, "300 prompts")}
    # Six answers to each of fifty prompts are fifty prompts.
    logged_evaluation(store, 300, repeats=6)
    assert found(store)[what][0] == wide
    # Of equals it is the one that the gate has decided by, then the newest.
    gated = logged_evaluation(store, 100, gate=True)
    logged_evaluation(store, 100)
    assert found(store) == {what: (gated, "300 prompts, read by the gate")}
    judged = logged_evaluation(store, 400, judge=Judge("llm"))
    assert found(store) == {
        what: (gated, "300 prompts, read by the gate"),
        f"{what}, judged by llm": (judged, "1200 prompts"),
    }


def test_the_card_says_that_an_evaluation_was_limited(store: Path) -> None:
    logged_evaluation(store, 20, suite=Suite(limit=20), repeats=2)
    ((_, told),) = found(store).values()
    assert told == "30 prompts, limited to 20 of each kind and benchmark, 2 answers to each"
    source: Any = SimpleNamespace(logged=SimpleNamespace(model_id="m-1"))
    text = "\n".join(_safety(evaluations(source)))
    assert f"| xstest, test half: {told} | 10.0%, n=20 |" in text


def test_the_card_names_the_objective_by_its_class() -> None:
    source: Any = SimpleNamespace(
        dtype="float32",
        logged=None,
        backbone=SimpleNamespace(
            model=SimpleNamespace(config=SimpleNamespace(model_type="llama")),
            think_format=ThinkFormat(),
        ),
    )
    params = {"objective._target_": "tbr_lightning.objectives.dpo.DPO", "seed": "3"}
    assert "- Objective: DPO" in list(_lines(source, "x", params, [], None))
