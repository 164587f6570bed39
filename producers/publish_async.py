"""The publishing calls for coroutines: posts share transactions without a thread each, the others run on threads, which
do not wait for Kafka."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from infra.errors import UseError
from infra.paging import Cursor
from infra.reactions import ReactionType
from infra.social import UserPage
from producers.erasing import Erased, Progress
from producers.following import Pair
from producers.posting import NewTweet, Tweet
from producers.publish import ERASE_LIMIT_S, Publisher, ignore_progress
from producers.users import User

R = TypeVar("R")
OnThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class AsyncPublisher:
    """`Publisher` with coroutines; same names, same arguments, same errors. The publisher is the caller's to close.
    `on_thread` runs what blocks."""

    def __init__(self, publisher: Publisher, on_thread: OnThread = asyncio.to_thread) -> None:
        self._publisher = publisher
        self._on_thread = on_thread

    async def post(self, new: NewTweet) -> Tweet:
        """One tweet, durable when it returns."""
        return await asyncio.wrap_future(self._publisher.submit(new))

    async def reply(self, author_id: int, to: int, text: str, key: str | None = None) -> Tweet:
        """An answer to the tweet `to`."""
        return await self.post(NewTweet(author_id, text, reply_to=to, key=key))

    async def retweet(self, author_id: int, of: int, key: str | None = None) -> Tweet:
        """A retweet of the original behind `of`."""
        return await self.post(NewTweet(author_id, retweet_of=of, key=key))

    async def post_many(self, tweets: Iterable[NewTweet]) -> list[Tweet | UseError]:
        """Many tweets, with a result for each."""
        return await self._run(partial(self._publisher.post_many, tweets))

    async def delete(self, tweet_id: int, acting_id: int | None = None) -> bool:
        """Deletes one tweet."""
        return await self._run(partial(self._publisher.delete, tweet_id, acting_id))

    async def follow(self, follower_id: int, author_id: int) -> bool:
        """`follower_id` follows `author_id` from now on."""
        return await self._run(partial(self._publisher.follow, follower_id, author_id))

    async def follow_many(self, pairs: Iterable[Pair]) -> list[bool | UseError]:
        """Follows as (follower, author)."""
        return await self._run(partial(self._publisher.follow_many, pairs))

    async def unfollow(self, follower_id: int, author_id: int) -> bool:
        """`follower_id` no longer follows `author_id`."""
        return await self._run(partial(self._publisher.unfollow, follower_id, author_id))

    async def unfollow_many(self, pairs: Iterable[Pair]) -> list[bool | UseError]:
        """The inverse of `follow_many`."""
        return await self._run(partial(self._publisher.unfollow_many, pairs))

    async def block(self, blocker_id: int, blocked_id: int) -> bool:
        """Ends the follows both ways, and forbids new ones."""
        return await self._run(partial(self._publisher.block, blocker_id, blocked_id))

    async def unblock(self, blocker_id: int, blocked_id: int) -> bool:
        """Takes a block back."""
        return await self._run(partial(self._publisher.unblock, blocker_id, blocked_id))

    async def like(self, user_id: int, tweet_id: int) -> None:
        """A user likes a tweet from now on."""
        await self._say(ReactionType.LIKED, user_id, tweet_id)

    async def unlike(self, user_id: int, tweet_id: int) -> None:
        """A user no longer likes a tweet."""
        await self._say(ReactionType.UNLIKED, user_id, tweet_id)

    async def create_user(self, handle: str, user_id: int | None = None, key: str | None = None) -> User:
        """A new user."""
        return await self._run(partial(self._publisher.create_user, handle, user_id, key))

    async def delete_user(
        self, user_id: int, progress: Progress = ignore_progress, limit_s: float = ERASE_LIMIT_S
    ) -> Erased:
        """Deletes a user and everything of his."""
        return await self._run(partial(self._publisher.delete_user, user_id, progress, limit_s))

    async def hide_user(self, user_id: int) -> None:
        """The first moment of `delete_user` alone."""
        await self._run(partial(self._publisher.hide_user, user_id))

    async def followers(self, user_id: int, cursor: Cursor = Cursor()) -> UserPage:
        """A page of a user's followers."""
        return await self._run(partial(self._publisher.followers, user_id, cursor))

    async def following(self, user_id: int, cursor: Cursor = Cursor()) -> UserPage:
        """A page of those whom a user follows."""
        return await self._run(partial(self._publisher.following, user_id, cursor))

    async def _say(self, kind: ReactionType, user_id: int, tweet_id: int) -> None:
        liking = self._publisher.liking
        said = await self._run(partial(liking.begin, kind, user_id, tweet_id))
        placed = await asyncio.wrap_future(said.placed)
        await self._run(partial(liking.show, said, placed))

    async def _run(self, call: Callable[[], R]) -> R:
        done: R = await self._on_thread(call)
        return done
