from __future__ import annotations

import html
import math
import re

import pytest

from report.pages import addresses, parsed
from report.training import TECHNIQUES, VANISHES, trained
from secant.race.records import RunRecord, Status, Tuning
from secant.report.heat_map import HeatMap, heat_map, powers_of
from secant.report.page import render
from secant.report.technique_text import setting_words, technique_words
from secant.report.training_section import first_layer_text
from secant.report.tuning_section import tuning_sentence

LAYERS = ("hidden_1", "hidden_2", "hidden_3", "output")


def text_of(page: str) -> str:
    """What a reader reads outside of figures."""
    without = re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", without)).replace("\N{NO-BREAK SPACE}", " ").split())


def render_seeds(**options: object) -> str:
    return render([trained(method, seed, scale, **options) for method, scale in (("adamw", 1.0), ("muon", 0.1)) for seed in (0, 1, 2)])  # type: ignore[arg-type]


def test_training_is_drawn_against_time_and_steps() -> None:
    page = render_seeds()
    for quantity in ("training loss", "test loss", "accuracy (%)"):
        for across in ("CPU time (s)", "steps"):
            assert f'aria-label="{quantity} against {across}"' in page
    assert parsed(page).tags.count("svg") == 6


def test_a_problem_without_held_out_data_has_its_training_loss_alone() -> None:
    record = trained()
    trace = tuple(point.model_copy(update={"test_loss": None, "accuracy": None}) for point in record.trace)
    assert parsed(render([record.model_copy(update={"trace": trace})])).tags.count("svg") == 2


def test_an_accuracy_that_rises_far_is_seen_to_its_end() -> None:
    page = render([trained()])
    figure = page[page.index('aria-label="accuracy (%) against steps"') :]
    ticks = [int(found) for found in re.findall(r">(\d+)</text>", figure[: figure.index("</svg>")])]
    assert 80 in ticks


def test_steps_cost_state_and_interventions_are_tabled() -> None:
    text = text_of(render_seeds())
    assert "muon (lr=0.01) 6,400 25.0 % 2.12 37 2 in 12 steps" in text


def test_the_header_names_the_techniques() -> None:
    techniques = {
        **TECHNIQUES,
        "schedule": "cosine: CosineAnnealingLR, to 0",
        "warmup": 10,
        "clip_norm": 1.0,
        "accumulate": 2,
        "momentum": 0.8,
        "weight_decay": 0.1,
    }
    text = text_of(render([trained(techniques=techniques)]))
    assert (
        "batches of 64 · cosine schedule · 2 micro-batches per step · warm-up of 10 steps · gradient norm clipped at 1 · momentum 0.8 · weight decay 0.1"
        in text
    )


def test_plain_training_has_nothing_to_say_but_its_batch() -> None:
    assert technique_words(TECHNIQUES) == ("batches of 64",)
    assert technique_words({"feed": "full batch"}) == ("full batch",)
    assert setting_words({}) == ()
    assert setting_words({"momentum": 0.0, "clip_value": 0.5, "max_step_length": 2.0}) == (
        "step length limited to 2",
        "gradient elements clipped at 0.5",
        "momentum 0",
    )


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ((12,), "in 12 steps"),
        ((1, 1), "in 1 step"),
        ((12, 9, 2000), "in 12 steps (9 to 2,000)"),
        ((None, None), "never"),
        ((12, None, 14), "in 2 of 3 runs, in 13 steps (12 to 14)"),
    ],
)
def test_whether_the_first_layer_learned_is_told_in_words(steps: tuple[int | None, ...], text: str) -> None:
    assert first_layer_text([trained(seed=seed, learned_at=step) for seed, step in enumerate(steps)]) == text


def test_a_first_layer_that_was_thrown_far_in_a_run_that_failed_has_not_learned() -> None:
    failed = trained(learned_at=1, status=Status.FAILED)
    assert first_layer_text([failed]) == "failed"
    assert first_layer_text([failed, trained(learned_at=4)]) == "in 1 of 2 runs, in 4 steps"


def test_the_page_tells_per_method_and_setting_whether_the_first_layer_learned() -> None:
    clipped = {**TECHNIQUES, "clip_norm": 1.0}
    plain = [trained("adamw", learned_at=None), trained("muon", learned_at=30)]
    text = text_of(render(plain, others=[trained("adamw", learned_at=7, techniques=clipped), trained("muon", learned_at=None, techniques=clipped)]))
    section = text[text.index("Did the first layer learn?") :]
    assert "Fastest with adamw (lr=0.01) with gradient norm clipped at 1: in 7 steps. Never in 2 of 4 settings." in section
    for row in ("adamw (lr=0.01) none never", "adamw (lr=0.01) gradient norm clipped at 1 in 7 steps", "muon (lr=0.01) none in 30 steps"):
        assert row in section


def test_a_first_layer_that_always_learns_needs_no_section() -> None:
    assert "Did the first layer learn?" not in render_seeds()


def test_health_shows_both_maps_of_each_method_and_names_layers_with_their_remedy() -> None:
    page = render_seeds(layers=LAYERS)
    text = text_of(page)
    assert text.count(f"hidden_1 (4 of 4 moments, steps 1 to 100): {VANISHES}") == 2
    for method in ("adamw", "muon"):
        for title in ("Gradient norm", "Update over weights"):
            assert f'aria-label="{title} of {method} (lr=0.01): layers' in page
    assert 'aria-label="noise scale (samples) against step"' in page
    assert "hidden_2 0 0 1.0e-3 100.0 % 0.0 %" in text
    assert "hidden_3 – – 1.0e-3 0.0 % 100.0 %" in text  # noqa: RUF001 - typography


def test_a_page_with_health_is_whole_and_loads_nothing() -> None:
    page = render_seeds(layers=LAYERS)
    assert addresses(page) == set()
    found = parsed(page)
    assert found.faults == []
    assert len(found.identifiers) == len(set(found.identifiers))
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", page)) <= set(found.identifiers)


def test_many_layers_with_one_problem_are_one_line() -> None:
    record = trained(layers=LAYERS)
    assert record.training is not None
    moments = [each.model_copy(update={"problems": {f"l{i}": f"Layer l{i} {VANISHES}" for i in range(9)}}) for each in record.training.health]
    page = render([record.model_copy(update={"training": record.training.model_copy(update={"health": tuple(moments)})})])
    assert f"l0, l1, l2 and 6 more, to l8 (4 of 4 moments, steps 1 to 100): {VANISHES}" in text_of(page)


def test_a_healthy_run_says_so() -> None:
    record = trained(layers=LAYERS)
    assert record.training is not None
    healthy = tuple(each.model_copy(update={"problems": {}}) for each in record.training.health)
    page = render([record.model_copy(update={"training": record.training.model_copy(update={"health": healthy})})])
    assert "No layer vanishes" in text_of(page)


def test_a_scale_of_powers_covers_its_numbers_and_stays_drawable() -> None:
    assert powers_of([1e-3, 5.0, None, 0.0, math.inf]) == (-3, 1)
    assert powers_of([1.0]) == (-1, 0)
    assert powers_of([]) == (-1.0, 0.0)
    assert powers_of([1e-40, 1e-2]) == (-18.0, -2)
    assert powers_of([1e3, 1e6], highest=1.0) == (0.0, 1.0)


def test_a_map_marks_what_is_not_finite_and_leaves_zero_empty() -> None:
    def drawn(*values: float | None) -> str:
        return heat_map(HeatMap(["one", "two"], [1, 2], [values, (1.0, 1.0)], (-2, 0), {"one"}), "map", "Gradients")

    assert drawn(None, math.inf).count("<use ") > drawn(0.0, 0.5).count("<use ")
    assert "font-weight" in drawn(0.0, 0.0)
    assert heat_map(HeatMap([], [], [], (-1, 0), ()), "map", "Gradients") == ""


def test_sixty_layers_with_long_names_fit_a_map() -> None:
    rows = [f"transformer.encoder.layers.{index}.self_attention.output" for index in range(60)]
    svg = heat_map(HeatMap(rows, list(range(1, 21)), [[0.1] * 20 for _ in rows], (-2, 0), ()), "map", "Gradients")
    names = re.findall(r">(…[^<]*)</text>", svg)
    assert len(names) == 30
    assert all(name.endswith("self_attention.output") for name in names)


def test_tuning_is_told_with_its_study_and_what_to_do_at_the_end_of_a_grid() -> None:
    found = Tuning(study="digits adamw 1a2b3c4d", method="adamw", seed=0, values={"lr=0.1": 0.5, "lr=0.01": 0.25, "lr=0.001": None}, best="lr=0.01")
    text = text_of(render([trained()], tunings=[found]))
    assert "adamw lr=0.1: 0.5, lr=0.01: 0.25, lr=0.001: – lr=0.01 digits adamw 1a2b3c4d" in text  # noqa: RUF001 - typography
    assert tuning_sentence(found) == "Tuned adamw on seed 0: lr=0.01 is best of 3."
    at_end = found.model_copy(update={"best": "lr=0.1"})
    assert tuning_sentence(at_end).endswith("the largest of its grid; a larger one may be better (--lr).")
    lost = found.model_copy(update={"values": {"lr=0.1": None, "lr=0.01": None}})
    assert tuning_sentence(lost).endswith("no rate of its grid gave a finite result; smaller ones may (--lr).")


def test_a_full_batch_race_without_training_data_keeps_its_page(record: object) -> None:
    assert callable(record)
    made = record()
    assert isinstance(made, RunRecord)
    page = render([made])
    assert "Steps</h2>" not in page
    assert 'aria-label="loss against evaluations' in page
