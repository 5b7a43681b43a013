"""The tiny base models: made from scratch on the base corpus, each trained once and cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import get_args

import torch
from filelock import FileLock
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tbr_lightning.data.cache import built
from tbr_lightning.errors import UserError, at_least, one_of
from tbr_lightning.microworld.corpus import THOUGHTS, Document, Thoughts, documents
from tbr_lightning.microworld.tokenizer import MAX_LENGTH, build_tokenizer
from tbr_lightning.microworld.world import Rules
from tbr_lightning.preflight import UNPACKABLE
from tbr_lightning.progress import bar


@dataclass(frozen=True, slots=True)
class BaseSettings:
    """What a base model is and how it is trained; chosen on dev prompts, seeds 0 to 2.

    Attributes:
        seed: Of the corpus and of the initial weights.
        architecture: A ``model_type`` of transformers; its own defaults hold but for the sizes.
        hidden: Width; the feed-forward layers are three times as wide.
        layers: Depth.
        heads: Attention heads.
        documents: Size of the corpus; it is seen once.
        thoughts: What it has of documents that think first: one of ``corpus.THOUGHTS``.
        rules: ``all``, or ``seen`` to leave out those that ``suite=unseen_rules`` asks about.
        row: Tokens in a packed row.
        batch: Rows in a step.
        lr: Peak learning rate; linear warm-up over 5% of the steps, then linear decay to zero.
        weight_decay: Of AdamW.

    Raises:
        UserError: A size is not positive, or the width does not split into heads.
    """

    seed: int = 0
    architecture: str = "llama"
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    documents: int = 36_000
    thoughts: Thoughts = "all"
    rules: Rules = "all"
    row: int = 128
    batch: int = 8
    lr: float = 3e-3
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "documents", "row", "batch"):
            at_least(f"model.pretraining.{name}", getattr(self, name), 1)
        one_of("model.pretraining.thoughts", self.thoughts, THOUGHTS)
        one_of("model.pretraining.rules", self.rules, get_args(Rules))
        if self.hidden % (2 * self.heads):
            raise UserError(
                f"model.pretraining.hidden={self.hidden} does not split into "
                f"{self.heads} heads of even width: give a multiple of {2 * self.heads}"
            )


def base_model(cache: Path, settings: BaseSettings | None = None) -> Path:
    """Return the folder of the base model, training it first if the cache lacks it.

    Args:
        cache: Where base models are kept; each under the hash of all that determines it.
        settings: Size and training settings.

    Returns:
        A folder that ``from_pretrained`` reads: weights, configuration, tokenizer, chat template.
    """
    settings = settings or BaseSettings()
    folder = cache / f"microworld-base-{content_hash(settings)}"
    if (folder / "config.json").exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    # Of several processes that want it at once, one trains it; the lock dies with its process.
    with FileLock(cache / f".{folder.name}.lock"):
        return built(folder, lambda partial: _write(partial, settings))


def _write(folder: Path, settings: BaseSettings) -> None:
    tokenizer = build_tokenizer()
    train(settings, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def content_hash(settings: BaseSettings) -> str:
    """Return 16 hex digits over the settings and the files that make the model."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for name in (
        "base.py",
        "corpus.py",
        "lexicon.yaml",
        "sentences.py",
        "tokenizer.py",
        "world.py",
    ):
        source = resources.files(__package__ or "") / name
        digest.update(name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def train(settings: BaseSettings, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Train a base model and return it in evaluation mode.

    Args:
        settings: Size and training settings.
        tokenizer: The world's tokenizer.
    """
    rows = _packed_rows(settings, tokenizer)
    steps = len(rows[0]) // settings.batch
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = AutoModelForCausalLM.from_config(base_config(settings, tokenizer))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.05 * steps), (steps - step) / (0.95 * steps))
    )
    with bar("base model", steps) as shown:
        for ids, positions in _batches(rows, settings.batch):
            logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
            # The first token of a document does not follow from the end of the one before it.
            targets = ids[:, 1:].masked_fill(positions[:, 1:] == 0, -100)
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), targets.flatten()
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            shown.advance(note=f"loss {loss.item():.3f}")
    model.eval()
    return model


def base_config(settings: BaseSettings, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    """Return the configuration of a base model, at the sizes wanted.

    Args:
        settings: Architecture and sizes.
        tokenizer: The world's tokenizer.

    Raises:
        UserError: transformers knows no causal language model of that name.
    """
    head = settings.hidden // settings.heads
    sizes = {
        "hidden_size": settings.hidden,
        "intermediate_size": 3 * settings.hidden,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.heads,
        "head_dim": head,
        "query_pre_attn_scalar": head,
        "max_position_embeddings": MAX_LENGTH,
    }
    try:
        known = AutoConfig.for_model(settings.architecture).to_dict()
        config = AutoConfig.for_model(
            settings.architecture,
            **{name: value for name, value in sizes.items() if name in known},
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    except (KeyError, ValueError, TypeError, StrictDataclassError) as error:
        raise _no_architecture(settings, str(error)) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise _no_architecture(settings, "it is not a causal language model")
    if settings.architecture in UNPACKABLE:
        raise _no_architecture(settings, "it would see across the documents of a packed row")
    return config


def _no_architecture(settings: BaseSettings, reason: str) -> UserError:
    return UserError(
        f"model.pretraining.architecture={settings.architecture} cannot be built: "
        f"{' '.join(reason.split())[:120]}: name one such as llama, qwen3 or gpt_neox"
    )


def _packed_rows(
    settings: BaseSettings, tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and positions of the corpus, cut into rows without any padding.

    Positions start anew with each document, from which transformers derives a mask that keeps
    documents apart.
    """
    texts = [_text(document) for document in _documents(settings)]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([token for document in encoded for token in document])
    positions = torch.tensor([k for document in encoded for k in range(len(document))])
    count = len(ids) // settings.row
    return (
        ids[: count * settings.row].view(count, settings.row),
        positions[: count * settings.row].view(count, settings.row),
    )


def _documents(settings: BaseSettings) -> Iterator[Document]:
    return documents(settings.seed, settings.documents, settings.thoughts, settings.rules)


def _text(document: Document) -> str:
    turn = "" if document.prompt is None else f"<user>{document.prompt}<assistant>"
    return f"<bos>{turn}{document.text}<eos>"


def _batches(
    rows: tuple[torch.Tensor, torch.Tensor], size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    ids, positions = rows
    for start in range(0, len(ids) - size + 1, size):
        yield ids[start : start + size], positions[start : start + size]
