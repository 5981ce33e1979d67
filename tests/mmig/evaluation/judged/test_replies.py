"""Strict readers take what a reply surely says, and nothing else."""

import pytest

from mmig.evaluation.judged.replies import (
    OUT_OF_RANGE,
    UNREADABLE,
    final_score,
    last_score,
    named_scores,
    score_lines,
    score_list,
)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"score": [7, 8], "reasoning": "x"}', (7, 8)),
        ('```json\n{"reasoning": "x",\n"score": [7, 8.5]}\n```', (7, 8.5)),
        ('||V^=^V||{"score" : [0, 10], "reasoning": "x"}||V^=^V||', (0, 10)),
        ("[6, 0]", (6, 0)),
        ('{"score": [6, 2], "reasoning": "the "red" one"}', (6, 2)),  # quotation marks that break the JSON
        ('{"score": 7, "reasoning": "x"}', UNREADABLE),
        ('{"score": [7, 8, 9]}', UNREADABLE),
        ('{"score": [7, 11]}', OUT_OF_RANGE),
        ('{"score": ["7", "8"]}', UNREADABLE),
        ('{"score": [true, 1]}', UNREADABLE),
        ("between [6, 0] and [7, 1]", UNREADABLE),
        ("I cannot help with that.", UNREADABLE),
        ("", UNREADABLE),
    ],
)
def test_a_list_of_two_scores(reply: str, expected: object) -> None:
    reading = score_list(reply, 2, 0, 10)
    assert expected in (reading.scores, reading.failure)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Brief reasoning: ok\nPrompt Compliance: 4\nVisual Naturalness: 3\nDetail: 5", (4, 3, 5)),
        ("**Prompt Compliance:** 4\n- **Visual Naturalness**: 3/5\n3. Detail: 5.", (4, 3, 5)),
        ("Prompt Compliance: 4 (good)\nVisual Naturalness: 3 out of 5\nDetail: **5**", (4, 3, 5)),
        ("Brief reasoning: 2\nA: 4\nB: 3\nC: 5", UNREADABLE),  # one number too many
        ("A: 4\nB: 3", UNREADABLE),
        ("A: 4\nB: 3\nC: 6", OUT_OF_RANGE),
        ("A: 4\nA: 3\nC: 5", UNREADABLE),
        ("Prompt Compliance: 4-5\nB: 3\nC: 5", UNREADABLE),
    ],
)
def test_three_lines_with_a_number(reply: str, expected: object) -> None:
    reading = score_lines(reply, 3, 1, 5)
    assert expected in (reading.scores, reading.failure)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Brief reasoning: heavy alterations. Score: 2.", (2,)),
        ("Brief reasoning: slightly unnatural. Score: 3 (Acceptable)", (3,)),
        ("Score: 1\nno, **Score:** 4", (4,)),
        ("Rating: 4", (4,)),
        ("Score: 7", OUT_OF_RANGE),
        ("Score: 3-4", UNREADABLE),
        ("four", UNREADABLE),
    ],
)
def test_the_last_score_of_a_reply(reply: str, expected: object) -> None:
    reading = last_score(reply, 1, 5)
    assert expected in (reading.scores, reading.failure)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"instruction_score": 4, "knowledge_score": 2}', (4, 2)),
        ('{"instruction_score": 4,\n"reasoning": 1. Detect 2. Match\n"knowledge_score": "2"}', (4, 2)),  # no JSON
        ("Instruction Score: **4**\nKnowledge score: 2.5", (4, 2.5)),
        ('{"instruction_score": 4}', UNREADABLE),
        ('{"instruction_score": 4, "knowledge_score": 2} or "knowledge_score": 3', UNREADABLE),
        ('{"instruction_score": 0, "knowledge_score": 2}', OUT_OF_RANGE),
        ("1. Detect: 4 of 5", UNREADABLE),
    ],
)
def test_scores_behind_their_names(reply: str, expected: object) -> None:
    reading = named_scores(reply, ("instruction_score", "knowledge_score"), 1, 5)
    assert expected in (reading.scores, reading.failure)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("so\n**Final Score:** **4**", (4,)),
        ("Final Score: 2? No. **Final Scores**: 3", (3,)),
        ("final score 5", (5,)),
        ("Final Score: 9", OUT_OF_RANGE),
        ("The score is 4", UNREADABLE),
    ],
)
def test_the_final_score(reply: str, expected: object) -> None:
    reading = final_score(reply, 1, 5)
    assert expected in (reading.scores, reading.failure)
