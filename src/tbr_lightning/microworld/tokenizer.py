"""A word-level tokenizer with a chat template, in the transformers form."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tbr_lightning.microworld import prompts, sentences
from tbr_lightning.microworld.world import load_world

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<assistant>{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}<{{ message['role'] }}>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MAX_LENGTH = 128


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the world's tokenizer: the same vocabulary every time, no file needed.

    Words carry the blank before them and punctuation stands alone, so that decoding what was
    encoded gives the text back exactly, as long as all its words belong to the world.
    """
    splitter = pre_tokenizers.Sequence(
        [
            # The blank goes with the word that follows it, as the mark that Metaspace decodes.
            pre_tokenizers.Metaspace(prepend_scheme="never", split=True),
            pre_tokenizers.Split(Regex(r"[^\w▁]"), "isolated"),
        ]
    )
    words: dict[str, int] = {}
    for token in (*SPECIAL, sentences.THINK_OPEN, sentences.THINK_CLOSE):
        words.setdefault(token, len(words))
    for text in _all_texts():
        for word, _ in splitter.pre_tokenize_str(text):
            words.setdefault(word, len(words))
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = splitter
    core.decoder = decoders.Metaspace(prepend_scheme="never")
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    # Not special: the markers have to survive decoding, since what is between them is split off.
    core.add_tokens(
        [
            AddedToken(t, special=False, normalized=False)
            for t in (sentences.THINK_OPEN, sentences.THINK_CLOSE)
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _all_texts() -> Iterator[str]:
    """Yield every text that the world can say; the vocabulary is what they are made of.

    Held-out pairs are among them, which tells the model nothing: the words alone are listed.
    """
    yield from sentences.REFUSALS
    yield from (f"A line. {line}" for line in prompts.FILLER)
    yield from prompts.FILLER
    for pair in load_world().pairs:
        for form in range(len(sentences.QUESTIONS)):
            yield sentences.cued(sentences.question(pair, form))
        yield sentences.reflection(pair)
        yield sentences.verdict(pair.rule)
        yield sentences.answer(pair)
