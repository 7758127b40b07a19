"""Which tokens of a prediction are drafted, and which count as accepted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.engine.worker.drafts.prediction import LEAST, PredictedText, Prediction

VOCAB = 100


class Answer:
    """A sequence with a prompt of three tokens."""

    n_prompt = 3
    matcher = None

    def __init__(self) -> None:
        self.tokens = np.zeros(2000, dtype=np.int32)
        self._size = self.n_prompt

    def __len__(self) -> int:
        return self._size

    def add(self, *tokens: int) -> None:
        self.tokens[self._size : self._size + len(tokens)] = tokens
        self._size += len(tokens)


def prediction_of(tokens: list[int]) -> Prediction:
    return Prediction(PredictedText(np.array(tokens, dtype=np.int32), VOCAB))


def followed(predicted: list[int], answer: list[int]) -> tuple[Prediction, list[list[int]]]:
    """Return a prediction after an answer, and what it proposed before each token, and at last."""
    prediction, sequence = prediction_of(predicted), Answer()
    proposed = [prediction.propose(sequence, 4).tokens]
    for token in answer:
        sequence.add(token)
        proposed.append(prediction.propose(sequence, 4).tokens)
    return prediction, proposed


def test_the_prediction_is_proposed_from_its_beginning_to_its_end() -> None:
    prediction, proposed = followed([5, 6, 7, 8, 9], [5, 6, 7, 8, 9, 1])
    assert proposed == [[5, 6, 7, 8], [6, 7, 8, 9], [7, 8, 9], [8, 9], [9], [], []]
    assert (prediction.accepted, prediction.rejected) == (5, 0)


def test_after_a_changed_line_the_rest_is_proposed_again() -> None:
    line, end = [10, 11, 12, 13], [1, 2]
    before, after = [20, 21, 22, *end], [30, 31, 32, 33, 34]
    prediction, proposed = followed([*before, *line, *end, *after], [*before, 40, 41, *end, *after])
    # At the end of the changed line, the nearest such end is the right one.
    assert proposed[len(before) : len(before) + 5] == [
        line, [], [], [], after[:4]
    ]  # fmt: skip
    assert (prediction.accepted, prediction.rejected) == (len(before) + 2 + 5, len(line))


def test_inserted_and_left_out_tokens() -> None:
    text = [*range(1, 40)]
    prediction, _ = followed(text, [*text[:10], 90, 91, *text[10:]])
    assert (prediction.accepted, prediction.rejected) == (39, 0)
    prediction, _ = followed(text, [*text[:10], *text[15:]])
    assert (prediction.accepted, prediction.rejected) == (34, 5)


def test_an_answer_that_begins_with_reasoning() -> None:
    text = [*range(1, 20)]
    prediction, proposed = followed(text, [50, 51, 52, 53, *text])
    assert proposed[1:6] == [[], [], [], [], []]
    assert proposed[6] == text[2:6]
    assert (prediction.accepted, prediction.rejected) == (19, 0)


def test_one_token_found_by_chance_counts_as_nothing() -> None:
    prediction, proposed = followed([1, 2, 3, 4, 5, 6], [9, 3, 9, 5, 6, 9])
    assert proposed[1:5] == [[], [], [], []]
    assert (prediction.accepted, prediction.rejected) == (0, 6)


def test_a_token_counts_once_however_often_the_answer_repeats_it() -> None:
    text = [1, 2, 3, 4, 5]
    prediction, proposed = followed(text, text * 3)
    assert proposed[7] == [3, 4, 5]
    assert (prediction.accepted, prediction.rejected) == (5, 0)


def test_the_longest_match_is_continued() -> None:
    text = [7, 1, 2, 50, 51, 52, 8, 1, 2, 60, 61, 62]
    _, proposed = followed(text, [9, 8, 1, 2])
    assert proposed[-1] == [60, 61, 62]


@pytest.mark.parametrize("answer", [[], [3]])
def test_nothing_of_an_unfinished_prediction_is_accepted(answer: list[int]) -> None:
    prediction, _ = followed([1, 2], answer)
    assert (prediction.accepted, prediction.rejected) == (0, 2)


def test_few_places_of_a_prediction_that_repeats_itself_are_looked_at() -> None:
    """The worker looks for a place at each token, while all other answers wait."""
    text = PredictedText(np.array([7] * 1000 + [8] + [7] * 1000, dtype=np.int32), VOCAB)
    near = text.after(7, 7, 500)
    assert 500 in near
    assert len(near) < 100
    assert near == list(range(near[0], near[-1] + 1))
    assert text.after(7, 8, 0) == text.after(7, 8, 2000) == [1001]
    assert text.after(7, 7, 0)[0] == LEAST
    assert text.after(8, 8, 0) == []


def test_a_prediction_of_one_token() -> None:
    prediction, proposed = followed([4], [4, 4])
    assert proposed == [[4], [], []]
    assert (prediction.accepted, prediction.rejected) == (1, 0)


SMALL = st.lists(st.integers(0, 3), max_size=40)


@given(SMALL, SMALL)
def test_whatever_the_answer_is(predicted: list[int], answer: list[int]) -> None:
    prediction, proposed = followed(predicted, answer)
    assert prediction.accepted + prediction.rejected == len(predicted)
    assert prediction.accepted <= len(predicted)
    for number, tokens in enumerate(proposed[1:], 1):
        if tokens and answer[:number] != predicted[:number]:
            # The answer's last tokens stand before the proposed ones in the prediction.
            last = [*answer[max(0, number - LEAST) : number], *tokens]
            assert any(predicted[i : i + len(last)] == last for i in range(len(predicted)))


@given(SMALL, SMALL, st.integers(1, 7))
def test_several_tokens_at_once_change_nothing(
    predicted: list[int], answer: list[int], width: int
) -> None:
    """Counts depend on the answer, not on how many of its tokens a step accepts."""
    one_by_one, _ = followed(predicted, answer)
    prediction, sequence = prediction_of(predicted), Answer()
    for begin in range(0, len(answer), width):
        sequence.add(*answer[begin : begin + width])
        prediction.follow(sequence)
    assert (prediction.accepted, prediction.at) == (one_by_one.accepted, one_by_one.at)


@given(SMALL, st.integers(0, 40))
def test_an_answer_that_is_the_beginning_of_the_prediction(predicted: list[int], end: int) -> None:
    prediction, _ = followed(predicted, predicted[:end])
    assert prediction.accepted == len(predicted[:end])
