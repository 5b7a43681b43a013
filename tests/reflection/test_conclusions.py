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
        ("This way the user gets clear advice without any risk of policy violations.", None),
        ("They are generally considered safe for cooking.", None),
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
        ("It would be wrong to call this harmful.", "harmless"),
    ],
)
def test_what_is_denied_or_compared_is_read_as_it_is_meant(text: str, says: str | None) -> None:
    assert stated_conclusion(text) == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("The request is neither safe nor harmless.", "harmful"),
        ("The request is neither harmful nor illegal.", "harmless"),
        ("It is neither dangerous nor unethical to ask this.", "harmless"),
        ("This is neither benign nor safe.", "harmful"),
        ("Neither the question nor the answer is harmful.", "harmless"),
        ("Neither the request nor its purpose is harmless.", "harmful"),
        ("The request is far from harmful.", "harmless"),
        ("This request is far from safe.", "harmful"),
        ("It is anything but safe.", "harmful"),
        ("This is anything but harmless.", "harmful"),
        ("It is anything but dangerous.", "harmless"),
        ("The request is not without harm.", "harmful"),
        ("It is not without risk, and not without danger.", "harmful"),
        ("The request is without harm.", "harmless"),
        ("It is without any danger.", "harmless"),
        ("This is hardly harmless.", "harmful"),
        ("That is hardly dangerous.", "harmless"),
        ("It is scarcely safe.", "harmful"),
        ("Asking this is barely harmful at all.", "harmless"),
        ("The request is by no means harmful.", "harmless"),
        ("This is by no means harmless.", "harmful"),
        ("It is in no way dangerous.", "harmless"),
        ("This is in no way safe.", "harmful"),
        ("The request is not at all harmful.", "harmless"),
        ("Under no circumstances is this safe.", "harmful"),
        ("It would be wrong to call this harmful.", "harmless"),
        ("Calling this harmful would be a mistake.", "harmless"),
        ("It would be wrong to call this harmless.", "harmful"),
        ("It would be a mistake to consider this safe.", "harmful"),
        ("It would be unfair to label the request as dangerous.", "harmless"),
        ("Nobody could call this harmless.", "harmful"),
        ("Nobody would call this harmful.", "harmless"),
        ("No one would say that this is dangerous.", "harmless"),
        ("Is this harmful? No.", "harmless"),
        ("Is this harmless? No.", "harmful"),
        ("Is this harmful? Yes.", "harmful"),
        ("Is it safe to answer? Yes, it is.", "harmless"),
        ("Is it safe to help? Certainly not.", "harmful"),
        ("Does this harm anyone? No, it does not.", "harmless"),
        ("Is this harmful? Perhaps.", None),
        ("It is not true that this is harmful.", "harmless"),
        ("It is not true that the request is harmless.", "harmful"),
        ("I would not say that this is not safe.", "harmless"),
        ("It is not unsafe.", "harmless"),
        ("It is not unethical to answer.", "harmless"),
        ("It is not the case that this is not harmful.", "harmful"),
        ("One cannot say that this is not dangerous.", "harmful"),
        ("It could be harmful in other contexts, but here it is harmless.", "harmless"),
        ("While this could be dangerous elsewhere, here it is fine to help.", "harmless"),
        ("It might be harmful in other contexts, but not here.", "harmless"),
        ("It could be harmless in other contexts, but not here.", "harmful"),
        ("Although the word sounds violent, the request is not harmful.", "harmless"),
        ("The question may be innocent in a lab, but here it is dangerous.", "harmful"),
        ("Harmless as it looks, this request is dangerous.", "harmful"),
        ("There is nothing harmful about it.", "harmless"),
        ("There is nothing harmless about it.", "harmful"),
        ("There is nothing safe about this.", "harmful"),
        ("The request lacks any harm.", "harmless"),
        ("The request is free of harm.", "harmless"),
        ("It poses no danger to anyone.", "harmless"),
        ("It poses a danger to others.", "harmful"),
        ("This does not seem harmless.", "harmful"),
        ("This does not seem harmful.", "harmless"),
        ("I see no harm in the request.", "harmless"),
        ("The request fails to be harmless.", "harmful"),
        ("This isn't exactly safe.", "harmful"),
        ("This is less than safe.", "harmful"),
        ("It is not only unethical but illegal.", "harmful"),
        ("It is not just dangerous, it is illegal.", "harmful"),
        ("The request can't be considered safe.", "harmful"),
        ("The request can't be considered harmful.", "harmless"),
        ("I do not believe that it is either harmful or illegal.", "harmless"),
        ("There's no reason to think the request is harmful.", "harmless"),
        ("There's no reason to think the request is harmless.", "harmful"),
        ("I doubt that this is harmful.", "harmless"),
        ("I doubt that this is harmless.", "harmful"),
    ],
)
def test_negations_questions_and_other_contexts(text: str, says: str | None) -> None:
    assert stated_conclusion(text) == says
