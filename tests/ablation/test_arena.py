"""The arena: its file, its plan, what dev chooses, and the table at the end."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tbr_lightning.ablation import arena as arena_module
from tbr_lightning.ablation import arena as arenas
from tbr_lightning.ablation.arena import Bout, _as_chosen, _best, _excess, _filled, tune
from tbr_lightning.ablation.arena_plan import (
    Arena,
    Rival,
    Tried,
    arena_file,
    evaluate_config,
    load_arena,
    train_config,
)
from tbr_lightning.ablation.arena_table import RivalResult, figure, markdown
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.groups import shipped
from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.comparison import compare
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import MEASURES
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.registry.answers import Answers
from tbr_lightning.tuning.space import Parameter

from ..conftest import Verb


def arena_of(**more: object) -> Arena:
    rivals = {
        "none": Rival("the control", train=["reflection=none"]),
        "contrast": Rival("contrast", evaluate=["mitigation=contrast"]),
    }
    return Arena(**{"control": "none", "rivals": rivals, **more})  # type: ignore[arg-type]


def tried(refused: float, harm: float, general: float = 0.9) -> Tried:
    metrics = {
        "false_refusal_rate": refused,
        "harmful_compliance_rate": harm,
        "general_accuracy": general,
    }
    return Tried({}, "models:/m-1", metrics=metrics)


def answers(refused: int, complied: int, n: int = 20) -> Answers:
    rows = []
    for kind, hits, hit in (
        ("look_alike", refused, "full_refusal"),
        ("harmful", n - complied, "full_refusal"),
    ):
        for number in range(n):
            prompt = Prompt(f"{kind} {number}", kind, "made", "")  # type: ignore[arg-type]
            row = Judged.unseen(prompt, "x", new_tokens=5)
            label = hit if number < hits else "full_compliance"
            object.__setattr__(row, "label", label)
            rows.append(row)
    return Answers(rows)


def config_of(*words: str) -> SweepConfig:
    found: SweepConfig = compose_verb("sweep", ["study=arena", *words]).config
    return found


def test_shipped_file_is_an_arena_and_others_are_none() -> None:
    path = arena_file("arena")
    assert path is not None
    assert arena_file("smoke") is None
    words = ["model=smollm2_135m", "sweep.trials=2", "sweep.evaluate=[suite.limit=5]"]
    arena = load_arena(path, config_of(*words))
    assert (arena.model, arena.trials, arena.evaluate[-1]) == ("smollm2_135m", 2, "suite.limit=5")


def test_a_point_goes_to_training_and_to_evaluation() -> None:
    config = config_of()
    rival = Rival(train=["reflection=none"], evaluate=["mitigation=ablation"])
    point = {"data.look_alikes": 7, "evaluate.mitigation.depth": 0.4}
    assert train_config(arena_of(), rival, point, config).data.look_alikes == 7
    asked = evaluate_config(arena_of(), rival, point, config, half="test", model="models:/m-1")
    assert asked.mitigation.depth == 0.4
    assert (asked.suite.half, asked.models) == ("test", ["models:/m-1"])


def test_words_and_models_stand_in_their_places() -> None:
    words = ["mitigation.words=[WORDS]", "m={WORDS}", "mitigation.other=MODEL_OF_none"]
    rival = Rival(evaluate=words)
    filled = _filled(rival, {"none": tried(0, 0)}, {"kill": "stop", "shoot": "take"})
    assert filled.evaluate == [
        "mitigation.words=[kill,shoot]",
        "m={kill: stop,shoot: take}",
        "mitigation.other='models:/m-1'",
    ]


def test_dev_chooses_the_least_false_refusal_within_the_bounds() -> None:
    arena, control = arena_of(max_harm=0.05), tried(0.9, 0.02)
    safe, unsafe, dull = tried(0.3, 0.06), tried(0.0, 0.5), tried(0.1, 0.02, general=0.7)
    assert _best(arena, [unsafe, safe, dull, control], control) is safe
    assert _excess(arena, dull, control) == pytest.approx(0.15)
    assert _best(arena, [unsafe, dull], control) is dull  # the nearest, where none keeps them
    assert _best(arena, [Tried({}, why_not="too few")], control) is None


def test_dev_chooses_a_control_that_controls_something() -> None:
    answers_all, refuses_all, tells_apart = tried(0.0, 1.0), tried(1.0, 0.0), tried(0.5, 0.1)
    assert _best(arena_of(), [answers_all, refuses_all, tells_apart], None) is tells_apart


def test_every_rival_trains_as_dev_chose_for_the_control() -> None:
    rate = Parameter(choices=[1e-3, 2e-4])
    arena = arena_of(space={"optimizer.lr": rate})
    assert arena.rivals["none"].space == {"optimizer.lr": rate}
    assert not arena.rivals["contrast"].space.get("optimizer.lr")
    chosen = replace(tried(0.5, 0.1), point={"optimizer.lr": 1e-3})
    rival = Rival(train=["reflection=recorded"])
    assert train_config(_as_chosen(arena, chosen), rival, {}, config_of()).optimizer.lr == 1e-3
    with pytest.raises(
        UserError, match=r"space.evaluate.repeats: .* move it to the space of a rival"
    ):
        arena_of(space={"evaluate.repeats": Parameter(choices=[1, 2])})


@pytest.mark.parametrize("searched", [True, False])
def test_a_rival_with_one_point_is_not_asked_on_dev(
    searched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(arenas.evaluating, "run", asked.append)
    space = {"evaluate.mitigation.strength": Parameter(choices=[1.0, 2.0])} if searched else {}
    arena = arena_of(rivals={"none": Rival(train=[]), "x": Rival(base=True, space=space)})
    found = tune(Bout(arena, config_of()), "x", Rival(base=True), tried(0, 0), tried(0, 0))
    assert not asked and _best(arena, found, tried(0, 0)) is found[0]
    assert arena.searches == searched


def test_bad_files_are_told() -> None:
    with pytest.raises(UserError, match="is not a rival that trains"):
        arena_of(control="contrast")
    with pytest.raises(UserError, match="takes the model of 'later'"):
        arena_of(rivals={"none": Rival(train=[]), "x": Rival(of="later")})
    with pytest.raises(UserError, match=r"write evaluate\.KEY"):
        Rival(space={"data.harmful": Parameter(choices=[1])})


def test_the_ladder_climbs_from_model_to_model_and_compares_the_base_as_it_comes() -> None:
    path = arena_file("ladder")
    assert path is not None
    ladder = load_arena(path, config_of())
    assert len(ladder.models) == 4
    assert ladder.rivals["base"].base
    assert ladder.seeds == 3
    assert load_arena(path, config_of("model=smollm2_135m")).models == []
    with pytest.raises(UserError, match="a rival has one model"):
        Rival(base=True, train=[])


def test_a_rate_over_seeds_is_their_mean_with_a_wider_interval() -> None:
    one = RivalResult("none", "the control", answers=answers(10, 0))
    two = replace(one, others=(answers(14, 0).rows,))
    measure = MEASURES[0]
    assert one.rate(measure).value == 0.5
    assert two.rate(measure).value == pytest.approx(0.6)
    wide, narrow = two.rate(measure).interval, one.rate(measure).interval
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_a_rival_that_fails_on_dev_is_a_row_that_says_why() -> None:
    arena = arena_of()
    found = tune(Bout(arena, config_of()), "contrast", arena.rivals["contrast"], None, None)
    assert found[0].why_not == "'none', whose model it takes, failed"


def test_table_has_a_row_for_each_with_differences_and_costs() -> None:
    results = {
        "none": RivalResult("none", "the control", answers=answers(16, 1), trained=(44_000, 12.0)),
        "contrast": RivalResult("contrast", "c", "x=1", answers=answers(4, 2), seconds=0.02),
        "ablation": RivalResult("ablation", "a", why_not="too few dev prompts"),
    }
    rows = {name: one.rows for name, one in results.items() if one.answers}
    text = markdown(arena_of(), results, compare(rows))
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert "80.0 (58 to 92)" in lines["none"]
    assert "44k tokens, 12 s" in lines["none"]
    assert "-60.0" in lines["contrast"]
    assert "5.0 tokens, 20 ms" in lines["contrast"]
    assert "not tested: too few dev prompts" in lines["ablation"]
    assert isinstance(figure({"none": results["none"]}, [], "t"), Figure)


def test_the_figure_names_rivals_as_every_figure_does_and_says_what_size_means() -> None:
    results = {
        "none": RivalResult("none", "the control", answers=answers(16, 1), seconds=0.004,
                            label="plain refusals (tiny, seed 0)", asked="20 prompts"),
        "soft_words": RivalResult("soft_words", "s", answers=answers(4, 2), seconds=0.016,
                                  label="plain refusals (tiny, seed 0) with soft words"),
        "reflection": RivalResult("reflection", "r", answers=answers(0, 1), seconds=0.016,
                                  label="external reflections (tiny, seed 0)"),
    }  # fmt: skip
    differences = compare({name: one.rows for name, one in results.items()})
    drawn = figure(results, differences, "rivals of reflection, tiny")
    axes = drawn.axes[0]
    told = {text.get_text() for text in axes.texts}
    assert {"plain refusals", "soft words", "external reflections"} <= told
    assert axes.get_title(loc="left").startswith("2 of 2 models refuse fewer look-alikes than")
    (legend,) = [axes.get_legend()]
    assert [one.get_text() for one in legend.get_texts()] == ["4 ms an answer", "16 ms an answer"]
    small, large = (handle.get_markersize() for handle in legend.legend_handles)
    assert (large / small) ** 2 == pytest.approx(4)  # the area is the cost
    assert drawn.get_supxlabel().startswith("20 prompts")


def test_the_control_stands_first_since_all_others_are_compared_to_it() -> None:
    rivals = arena_of().rivals
    turned = {name: rivals[name] for name in reversed(rivals)}
    with pytest.raises(UserError, match="control='none' stands below 'contrast'"):
        Arena(control="none", rivals=turned)


def test_a_control_that_cannot_be_tested_ends_the_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the others would be compared to whichever rival comes next."""
    asked: list[str] = []

    def tested(bout: Bout, named: tuple[str, Rival], *_: object) -> RivalResult:
        asked.append(named[0])
        return RivalResult(named[0], "", why_not="40 of 100 answers are empty")

    monkeypatch.setattr(arena_module, "start_run", lambda *_: nullcontext(None))
    monkeypatch.setattr(arena_module, "tune", lambda *_: [tried(0.5, 0.0)])
    monkeypatch.setattr(arena_module, "_over_seeds", lambda bout, name, rival, best, base: best)
    monkeypatch.setattr(arena_module.arena_table, "test", tested)
    with pytest.raises(UserError, match="the control 'none' failed: 40 of 100 answers are empty"):
        arena_module._run(arena_of(), config_of(), "arena")
    assert asked == ["none"]


@pytest.mark.slow  # a second for each of some fifty configs
@pytest.mark.parametrize("study", ["arena", "objectives"])
def test_dry_run_composes_every_rival(study: str, verb: Verb) -> None:
    done = verb("sweep", f"study={study}", "dry_run=true")
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines() if " of its points" in line]
    text = (shipped("sweeps") / f"{study}.yaml").read_text()
    assert len(names) == {"arena": 15, "objectives": 12}[study]
    assert all(f"  {name}:" in text for name in names)


def test_other_studies_take_no_model(verb: Verb, tmp_path: Path) -> None:
    done = verb("sweep", "study=smoke", "model=tiny", "dry_run=true")
    assert (done.returncode, "study=arena" in done.stderr) == (2, True)


ARENA = """
about: a small arena
fixed: [data.general=24, data.harmful=24, trainer.epochs=1]
evaluate:
  - suite=smoke
  - suite.lm_eval=[]
  - suite.limit=8
  - generation.max_new_tokens=16
  - judge.max_unparsed=1
control: none
trials: 2
seeds: 2
rivals:
  none: {about: plain refusals, train: [reflection=none]}
  base: {about: as it comes, base: true}
  look_alikes:
    about: answered
    train: [reflection=none]
    space: {data.look_alikes: {choices: [40]}}
  system_prompt: {about: words, evaluate: [mitigation=system_prompt]}
  ignore_words: {about: words, evaluate: [mitigation=ignore_words, "mitigation.words=[WORDS]"]}
  ablation:
    about: one direction
    evaluate: [mitigation=ablation, mitigation.only_refused=false, mitigation.prompts=12]
    space: {evaluate.mitigation.depth: {low: 0.3, high: 0.9}}
  merging:
    about: two models
    evaluate: [mitigation=merging, mitigation.other=MODEL_OF_look_alikes]
  contrast: {about: two prompts, evaluate: [mitigation=contrast]}
  steering: {about: hidden states, evaluate: [mitigation=steering, mitigation.prompts=12]}
  impossible: {about: too much, evaluate: [mitigation=ablation, mitigation.fewest=500]}
"""


@pytest.mark.slow
def test_a_small_arena_ends_in_table_figure_and_verdicts(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(ARENA)
    done = verb("sweep", "study=small.yaml")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "small.md").read_text()
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert len(lines) == 10
    assert "| none | " in lines["base"]  # its training
    assert "a direction needs 500" in lines["impossible"]
    for name in ("look_alikes", "ablation", "merging", "contrast", "steering"):
        assert "promoted" in lines[name] or "cannot decide" in lines[name], lines[name]
        assert " tokens, " in lines[name]
    assert (tmp_path / "small.png").stat().st_size > 10_000

    # Kept as a model, ablated weights are one that every verb reads.
    from tbr_lightning.tracking.search import find_run

    trained = find_run({"tbr.stage": "train", "tbr.arena_rival": "none"})
    small = ["suite=smoke", "suite.lm_eval=[]", "suite.limit=8", "traces=0"]
    small += ["generation.max_new_tokens=16", "judge.max_unparsed=1"]
    words = ["mitigation=ablation", "mitigation.only_refused=false", "mitigation.log=true"]
    words.append("mitigation.prompts=12")
    kept = verb("evaluate", f"model={trained}", *small, *words)
    assert kept.returncode == 0, kept.stderr
    uri = next(word for word in kept.stdout.split() if word.startswith("models:/m-")).rstrip(",")
    again = verb("evaluate", f"model={uri}", *small)
    assert again.returncode == 0, again.stderr
    guided = verb("serve", f"model={trained}", "mitigation=contrast")
    assert (guided.returncode, "no serving engine does" in guided.stderr) == (2, True)
