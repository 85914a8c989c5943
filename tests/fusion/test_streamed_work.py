"""The predicted work of a fusion layer by layer grows as it must."""

import pytest
from three_layers import llama

from compressor.fusion.streamed_work import MachineRates, predict_work

RATES = MachineRates(single=1e9, double=5e8)


def work(layers=2, inner="select"):
    return predict_work([llama(1, layers).config] * 2, llama(2, layers).config, inner)


def test_seconds_grow_with_tokens_up_to_those_that_are_used():
    prediction = work()
    few, many = (prediction.seconds(tokens, RATES) for tokens in (1000, 2000))
    assert 0 < few < many
    assert prediction.seconds(prediction.most_tokens, RATES) == prediction.seconds(10**9, RATES)
    assert prediction.tokens(10**9) == prediction.most_tokens


def test_layers_and_the_choice_of_units_cost_time_and_disk():
    two, four = work(2), work(4)
    assert four.student_bytes == 2 * two.student_bytes
    # What is outside the layers is paid once.
    assert 1.5 < four.seconds(4096, RATES) / two.seconds(4096, RATES) <= 2
    assert work(inner="importance").solves < two.solves


def test_rates_are_measured():
    rates = MachineRates.measured()
    assert rates.single > 1e6 and rates.double > 1e6
    slower = MachineRates(rates.single / 2, rates.double / 2)
    prediction = work()
    assert prediction.seconds(1000, slower) == pytest.approx(2 * prediction.seconds(1000, rates))
