"""One order through its workflow, however it goes."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from examples.shop.messages import (
    OVERDUE,
    Address,
    CancelShipping,
    CreateShippingLabel,
    MakePayment,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    OrderShipped,
    PaymentCompleted,
    PaymentDeclined,
    PaymentRefunded,
    RefundPayment,
    ShippingCancelled,
    ShippingFailed,
    ShippingLabelCreated,
    ShippingOverdue,
)
from examples.shop.ordering import Fulfilment

from outlast.testing import Scenario

PRICE = Decimal("12.50")
CORK = Address(name="Hungry Owl All-Night Grocers", city="Cork", country="Ireland")
PLACED = OrderPlaced(order_id="a", total=PRICE, ship_to=CORK)
PAID = PaymentCompleted(order_id="a", payment_id="p", amount=PRICE)
LABEL = ShippingLabelCreated(order_id="a", tracking="t")
REFUND = RefundPayment(order_id="a", payment_id="p", amount=PRICE)


@pytest.fixture
def fulfilment() -> Scenario[Fulfilment]:
    return Scenario(Fulfilment)


def test_an_order_is_paid_and_then_shipped(fulfilment: Scenario[Fulfilment]) -> None:
    fulfilment.when(PLACED).sends(MakePayment(order_id="a", amount=PRICE)).waits_for_nothing()
    fulfilment.when(PAID).sends(CreateShippingLabel(order_id="a", ship_to=CORK))
    fulfilment.waits(ShippingOverdue, timedelta(days=1))
    fulfilment.when(LABEL).sends(OrderShipped(order_id="a", tracking="t")).completes().waits_for_nothing()


def test_payment_may_be_away_for_a_month(fulfilment: Scenario[Fulfilment]) -> None:
    fulfilment.given(PLACED).advance(timedelta(days=30)).sends_nothing()
    fulfilment.when(PAID).sends(CreateShippingLabel)


def test_a_declined_card_cancels_the_order(fulfilment: Scenario[Fulfilment]) -> None:
    fulfilment.given(PLACED).when(PaymentDeclined(order_id="a", reason="too much"))

    fulfilment.sends(OrderCancelled(order_id="a", reason="too much")).completes()


def test_a_refusal_of_the_warehouse_brings_the_money_back(fulfilment: Scenario[Fulfilment]) -> None:
    fulfilment.given(PLACED, PAID)

    fulfilment.when(ShippingFailed(order_id="a", reason="too far")).sends(REFUND).waits_for_nothing()
    fulfilment.when(PaymentRefunded(order_id="a", payment_id="r", amount=PRICE))
    fulfilment.sends(OrderRefunded(order_id="a", reason="too far")).completes()


def test_a_label_that_fails_for_good_is_voided_before_the_money_goes_back(fulfilment: Scenario[Fulfilment]) -> None:
    fulfilment.given(PLACED, PAID)

    fulfilment.fails(CreateShippingLabel, reason="gone").sends(CancelShipping(order_id="a", reason="gone"))
    fulfilment.waits_for_nothing().when(ShippingCancelled(order_id="a")).sends(REFUND)


def test_a_day_without_a_label_cancels_the_shipping_before_the_refund(fulfilment: Scenario[Fulfilment]) -> None:
    fulfilment.given(PLACED, PAID)

    fulfilment.advance(timedelta(days=1)).sends(CancelShipping(order_id="a", reason=OVERDUE))
    fulfilment.when(ShippingCancelled(order_id="a")).sends(REFUND)


def test_a_label_that_is_made_too_late_does_not_ship_the_order(fulfilment: Scenario[Fulfilment]) -> None:
    fulfilment.given(PLACED, PAID).advance(timedelta(days=1))

    fulfilment.when(LABEL).sends_nothing()
    fulfilment.when(ShippingCancelled(order_id="a")).sends(REFUND)


def test_a_refusal_after_the_day_is_over_does_not_refund_twice(fulfilment: Scenario[Fulfilment]) -> None:
    fulfilment.given(PLACED, PAID).advance(timedelta(days=1))

    fulfilment.when(ShippingFailed(order_id="a", reason="the order was cancelled")).sends_nothing()
    fulfilment.when(ShippingCancelled(order_id="a")).sends(REFUND)


def test_a_label_in_time_leaves_no_timer_to_fire(fulfilment: Scenario[Fulfilment]) -> None:
    fulfilment.given(PLACED, PAID, LABEL)

    fulfilment.advance(timedelta(days=2)).sends_nothing()
