import json

import pytest

from benchmarks.scores import Score, by_protocol, parse_scores
from darla.errors import CorruptFileError


def test_a_score_survives_its_row(scores_of) -> None:
    for score in scores_of():
        assert Score.of_row(json.loads(json.dumps(score.row())), "here") == score


@pytest.mark.parametrize(("text", "shown"), [("NaN", "nan"), ("Infinity", "inf"), ("null", "None")])
def test_a_planted_return_that_is_no_number_is_named(scores_of, text: str, shown: str) -> None:
    rows = [json.dumps(score.row()) for score in scores_of(episodes=2, seeds=1)]
    planted = json.loads(rows[4])
    rows[4] = json.dumps({**planted, "return": None}).replace("null", text)
    with pytest.raises(CorruptFileError) as caught:
        parse_scores([json.loads(row) for row in rows], "runs/x/scores.jsonl")
    message = str(caught.value)
    assert message.startswith("runs/x/scores.jsonl, line 5: the return of dqn on darla, seed 0, in")
    assert f"({shown})" in message
    assert "\n" not in message


def test_rows_that_are_no_scores_are_named(scores_of) -> None:
    row = scores_of()[0].row()
    for damage, words in (
        ({"split": "train"}, "'split' holds 'train'"),
        ({"seed": "0"}, "'seed' holds '0'"),
        ({"return": True}, "'return' holds True"),
        ({"tags": None}, "'tags' holds None"),
    ):
        with pytest.raises(CorruptFileError, match=words):
            parse_scores([row | damage])
    del row["frames"]
    with pytest.raises(CorruptFileError, match=r"line 1: the field\(s\) frames are missing"):
        parse_scores([row])


def test_an_episode_that_is_there_twice_is_refused(scores_of) -> None:
    rows = [score.row() for score in scores_of()]
    with pytest.raises(CorruptFileError, match=f"line {len(rows) + 1}: the same episode as line 3"):
        parse_scores([*rows, rows[2]])


def test_protocols_share_the_sources_and_nothing_else(scores_of) -> None:
    own = scores_of(encoder_ood=None)
    other = [
        Score(**{**vars(score), "suite": "lab-single"}) for score in own if score.split == "target"
    ]
    parts = by_protocol(parse_scores([score.row() for score in own + other]))
    assert list(parts) == ["lab", "lab-single"]
    for name, rows in parts.items():
        assert {score.suite for score in rows if score.split == "target"} == {name}
        assert len([score for score in rows if score.split == "source"]) == 90
