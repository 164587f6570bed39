"""What the writing routes work with: the app's one publisher, and its watch on the outbox's age."""

from functools import partial
from typing import Annotated

from fastapi import Depends, Request

from infra.http_input import OpenStores
from producers.back_pressure import BackPressure, oldest_age_s
from producers.publish import Publisher


async def publisher_of(request: Request, stores: OpenStores) -> Publisher:
    """The app's one publisher: its ids come from one sequence. On the event loop, so it is made once."""
    state = request.app.state
    if not hasattr(state, "publisher"):
        state.publisher = state.parts.enter_context(Publisher(stores))
    publisher = state.publisher
    assert isinstance(publisher, Publisher)
    return publisher


async def room_for_writes(request: Request, stores: OpenStores) -> None:
    """Raises `Overloaded` while the relay is too far behind."""
    state = request.app.state
    if not hasattr(state, "back_pressure"):
        state.back_pressure = BackPressure(partial(oldest_age_s, stores.engine))
    await state.back_pressure.check(stores.timelines.live.outbox_age_max_s)


ThePublisher = Annotated[Publisher, Depends(publisher_of)]
