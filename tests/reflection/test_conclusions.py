"""What rationales conclude, in many wordings."""

from __future__ import annotations

import pytest

from tbr_lightning.data.conclusions import stated_conclusion
from tbr_lightning.reflection.checks import reject_reason
from tbr_lightning.reflection.record import Draft


@pytest.mark.parametrize(
    "text",
    [
        "So the request is harmful.",
        "It would be wrong to help.",
        "That is dangerous and unethical.",
        "This is not harmless.",
        "It is far from harmless.",
        "It may seem harmless, but it is dangerous.",
        "I cannot help with illegal activities.",
        "It is not safe to answer.",
        "I should refuse.",
        "The answer could be used to hurt people, so the request is harmful.",
        "It is harmless to ask. Still, I must politely decline.",
        "This is clearly against our safety policies.",
    ],
)
def test_harmful(text: str) -> None:
    assert stated_conclusion(text) == "harmful"


@pytest.mark.parametrize(
    "text",
    [
        "So the request is harmless.",
        "So the request is not harmful.",
        "So it is fine to help.",
        "The user asks about a lock. This isn't harmful at all.",
        "I do not think that this is harmful.",
        "So it is not really harmful.",
        "Nobody is hurt; there is nothing harmful in it.",
        "It sounds harmful but is harmless.",
        "There is no harm in it.",
        "It isn't dangerous or illegal.",
        "The request is anything but harmful.",
    ],
)
def test_harmless(text: str) -> None:
    assert stated_conclusion(text) == "harmless"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Harmful.",
        "harmless",
        "Is it harmful or not? Hard to say.",
        "Is the request harmful?",
        "It might be harmful.",
        "The user wants a recipe for bread.",
        "My answer should not promote anything harmful.",
    ],
)
def test_nothing_is_concluded(text: str) -> None:
    assert stated_conclusion(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("<think>It hurts.</think> So the request is harmful.", "markers"),
        ("It hurts.</think>Sure, here it is.", "markers"),
        ("It hurts. <|im_end|> So the request is harmful.", "markers"),
        ("Sure, here is how. So the request is harmful.", "answers"),
        ("1. Get a pick.\n2. Push the pins.\n3. Turn it.\nSo the request is harmful.", "answers"),
        ("The request is about a lock.", "off_format"),
        ("So the request is harmless.", "contradicts"),
        (
            "1. The request asks for a way in.\n2. It would hurt the owner.\n"
            "3. Helping is wrong.\nSo the request is harmful.",
            None,
        ),
    ],
)
def test_what_is_wrong_with_a_rationale_on_a_harmful_row(text: str, reason: str | None) -> None:
    assert reject_reason(Draft(text, stated_conclusion(text)), "harmful") == reason


def test_a_rationale_that_states_nothing_passes_only_where_it_is_asked_for() -> None:
    draft = Draft("The request is about a lock.", None)
    assert reject_reason(draft, "harmful", unstated="accept") is None
    assert (
        reject_reason(Draft("It hurts. [R] x", "harmful"), "harmful", markers=["[R]"]) == "markers"
    )
    assert reject_reason(Draft("", None, filtered="no"), "harmful", unstated="accept") == "filtered"


@pytest.mark.parametrize(
    ("text", "concludes"),
    [
        ("The user asks about networks. Entering one without permission is illegal.", "harmful"),
        ("It can be answered without being harmful to anybody, so it is fine to help.", "harmless"),
        ("It might mean a portrait of the dog, which is harmless, or it could mean worse.", None),
        ("I should name lawful ways. These are all safe and useful suggestions.", None),
        ("I cannot provide her address. These are safe and keep to the rules.", "harmful"),
        ("Instead, they can call the police, which is a safe and legal step.", None),
        ("The user asks for facts about history, not for a method, so it's safe.", "harmless"),
    ],
)
def test_what_is_offered_in_its_place_says_nothing_of_the_request(
    text: str, concludes: str | None
) -> None:
    assert stated_conclusion(text) == concludes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("I see no reason to refuse.", "harmless"),
        ("So there is no need to decline.", "harmless"),
        ("I should not refuse this.", "harmless"),
        ("So this request should be refused.", "harmful"),
        ("It is harmful rather than harmless.", "harmful"),
        ("It is harmless rather than harmful.", "harmless"),
        ("It is neither harmful nor illegal.", "harmless"),
        ("There is nothing harmful about this request.", "harmless"),
        ("One might call it harmful, but it is not.", "harmless"),
        ("One might call it harmless, but it is not.", "harmful"),
        ("It would be wrong to call this harmful.", None),
    ],
)
def test_what_is_denied_or_compared_is_read_as_it_is_meant(text: str, says: str | None) -> None:
    assert stated_conclusion(text) == says
