"""The schema's identity of an instruction."""

from tbr_lightning.data.example import Example, instruction_id


def test_the_id_depends_on_instruction_and_input_only() -> None:
    one = Example("Say hello.", "Hello.", "general", "a")
    assert one.id == Example("Say hello.", "Hi.", "harmful", "b", rejected="x").id
    assert one.id != Example("Say hello.", "Hello.", "general", "a", input="x").id
    assert instruction_id("ab", "c") != instruction_id("a", "bc")
    assert Example("A", "r", "general", "a", input="B").prompt == "A\n\nB"
