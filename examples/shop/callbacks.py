"""Telling a customer's own server how an order ended, however long that server is away."""

from __future__ import annotations

import os

import httpx


class NotAllowed(Exception):
    """This shop does not call such an address."""


class Callbacks:
    """Calls addresses of origins that are allowed, and no others.

    Whoever may name an address makes this process send requests from where it stands, which may be inside a private
    network. So what may be called is a list, compared as a whole: scheme, host and port. It is looked at again before
    each call, and redirects are not followed.
    """

    def __init__(self, http: httpx.AsyncClient, allowed: frozenset[str]) -> None:
        self._http = http
        self._allowed = allowed

    async def tell(self, address: str, news: dict[str, str], *, idempotency_key: str) -> None:
        """Raises `NotAllowed`, or an error of httpx unless the answer is a 2xx."""
        check_allowed(address, self._allowed)
        answer = await self._http.post(address, json=news, headers={"Idempotency-Key": idempotency_key})
        if not answer.is_success:
            raise httpx.HTTPStatusError(
                f"{address} answered {answer.status_code}", request=answer.request, response=answer
            )


def allowed_origins() -> frozenset[str]:
    """What SHOP_CALLBACK_ORIGINS lists: `https://a.example https://b.example:8443`; nothing unless it is set."""
    return frozenset(os.environ.get("SHOP_CALLBACK_ORIGINS", "").split())


def check_allowed(address: str, allowed: frozenset[str]) -> None:
    """Raises `NotAllowed`, which says why."""
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise NotAllowed(f"{address!r} is no address: {error}.") from error
    origin = f"{url.scheme}://{url.netloc.decode()}"
    if url.userinfo or origin not in allowed:
        raise NotAllowed(
            f"{address!r} is not called: {origin!r} is none of the origins that are agreed upon. Ask for it to be "
            "added, without a user's name or a password in it."
        )
