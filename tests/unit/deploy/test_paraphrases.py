"""Questions that mean the same: made with a seed, and nothing that is held out is in training."""

from __future__ import annotations

from deploy.samples import paraphrases

MATERIAL = paraphrases.load()
ROWS = paraphrases.training_rows(MATERIAL, 0, each=12, composed=200)


def test_the_same_seed_makes_the_same_rows() -> None:
    assert paraphrases.training_rows(MATERIAL, 0, each=12, composed=200) == ROWS
    assert paraphrases.training_rows(MATERIAL, 1, each=12, composed=200) != ROWS


def test_nothing_that_is_held_out_stands_in_a_training_text() -> None:
    held = [text for topic in MATERIAL.topics for text in topic.colloquial]
    held += [row["text"] for row in paraphrases.validation_rows(MATERIAL, 0)]
    texts = "\n".join(row["text"] for row in ROWS)
    assert [text for text in held if text in texts] == []
    assert len(held) == 331


def test_topics_that_are_held_out_whole_have_no_training_row() -> None:
    whole = {topic.title for topic in MATERIAL.topics if not topic.wordings}
    labels = {row["label"] for row in ROWS}
    assert len(whole) == 32
    assert not whole & labels
    assert {topic.title for topic in MATERIAL.topics} - whole <= labels


def test_every_slot_has_values_and_none_is_left_open() -> None:
    assert all("{" not in row["text"] for row in ROWS)
