"""Evaluations and bench reports in a run's directory, as tables and bars of its report."""

import json

import pytest

from fastmoco.reporting.tables import tables, waterfall


def test_evaluations_of_every_command_become_tables(tmp_path):
    score = {"top1": 0.5, "low": 0.4, "high": 0.6, "top5": None, "images": 10, "classes": []}
    (tmp_path / "linear.json").write_text(json.dumps({
        "step": 1200, "protocol": "official linear",
        "rows": [{"features": "trained", "rate": 30.0, "held_out": {"30": 0.4}, "score": score}],
    }))
    (tmp_path / "finetune.json").write_text(json.dumps({"rows": {"trained": score}}))
    (tmp_path / "knn.json").write_text(json.dumps({"rows": [{"k": 20, "T": 0.07, "top1": 0.25}]}))
    (tmp_path / "notes.json").write_text("[1, 2]")
    (tmp_path / "run.json").write_text("{}")
    (finetune, knn, linear), strange = tables(tmp_path)
    assert linear.title == "linear; official linear; step 1,200"
    assert linear.headers == ["features", "rate", "top1", "low", "high"]
    assert linear.rows == [["trained", "30", "50.0%", "40.0%", "60.0%"]]
    assert finetune.rows[0][0] == "trained" and "50.0%" in finetune.rows[0]
    assert knn.rows == [["20", "0.07", "25.0%"]]
    assert len(strange) == 1 and strange[0].startswith("notes.json")


@pytest.mark.parametrize("wrong", [
    {"top1": -5}, {"top1": 1.01}, {"low": -0.1}, {"high": 2}, {"top5": 50.0}, {"k": -5}, {"k": 0},
    {"T": -5}, {"rate": -1.0}, {"images": -5}, {"score": {"top1": -5}},
])
@pytest.mark.parametrize("named", [False, True])
def test_evaluations_with_impossible_values_are_left_out(wrong, named, tmp_path):
    row = {"top1": 0.5} | wrong
    (tmp_path / "e.json").write_text(json.dumps({"rows": {"trained": row} if named else [row]}))
    found, strange = tables(tmp_path)
    assert not found and len(strange) == 1 and "is not from" in strange[0]


@pytest.mark.parametrize("name", ["step", "size"])
def test_an_evaluation_at_a_step_below_0_is_left_out(name, tmp_path):
    (tmp_path / "e.json").write_text(json.dumps({"rows": [{"top1": 0.5}], name: -5}))
    assert f"{name} is not from 0" in tables(tmp_path)[1][0]


def test_bars_start_where_the_one_before_ends(tmp_path):
    rates = {"decode": 1000, "two views": 500, "augmentation alone": 250, "step alone": 125,
             "two views + augmentation + step": 60}
    saved = {"stages": [{"name": n, "images_per_s": r} for n, r in rates.items()],
             "machine": "m", "binds": "b", "advice": "a"}
    (tmp_path / "bench.json").write_text(json.dumps(saved))
    found = waterfall(tmp_path)
    assert [(b.name, b.start, b.length) for b in found.stages] == [
        ("decode", 0, 1), ("both crops", 1, 1), ("augmentation", 2, 4), ("step", 6, 8)
    ]
    assert found.together == pytest.approx(1000 / 60) and not found.overlap
    (tmp_path / "bench.json").write_text("{}")
    assert waterfall(tmp_path) is None
