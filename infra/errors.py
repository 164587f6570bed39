"""The one tree of errors. Code asks an error what to do; nobody matches message text.

FanfoldError                     exit 1
├── UseError                     exit 2, HTTP 4xx: the caller can mend it
│   ├── ConfigurationError       a setting is unknown, missing or of the wrong type
│   ├── InvalidInput       422   a value breaks a rule
│   ├── Unauthenticated    401   there is no valid bearer token
│   ├── NotFound           404   the user, tweet or file is not there
│   ├── Forbidden          403   the acting user, or his token, may not do this
│   └── Conflict           409   something else has the name
│       ├── KeyReused      409   an idempotency key was sent with another request before
│       └── LeaseHeld      409   another process does the job at this moment
├── CheckFailed                  exit 1: a check ran and found differences
├── Undecodable                  a message that no known version of the code can read
├── Fenced                       a Redis node refused a write: old epoch, generation or call
├── Superseded                   a newer worker has taken over; drop what is held
├── RedisRefused                 a Redis node refuses a command for a reason that will not pass
├── TokenLost                    a rebuild is no longer mine; start again
├── LeaseLost              exit 3: the right to do a one-at-a-time job is over, or may be
├── PositionLost                 a log no longer has the offset that reading goes on from
├── Closed                  503  what was called has been closed
├── Overloaded              503  more is written than can be worked off; try again later
├── ClockWentBack           503  new ids would be below old ones; try again later
└── DependencyError              exit 3, HTTP 503, retriable: a server cannot be reached
    ├── DatabaseUnavailable
    │   └── AuthorBusy           another publisher holds an author's lock for too long
    ├── KafkaUnavailable
    ├── RedisUnavailable
    │   ├── RedisAddressWrong    what answers is no Redis, or refuses the password
    │   └── RedisFull            a node lives and has no memory left for what is written
    ├── ZooKeeperUnavailable
    └── StackError               the embedded stack cannot start or is not running
"""

from typing import ClassVar


class FanfoldError(Exception):
    """Raised for everything Fanfold itself reports. The message names what was wrong and what to do."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retriable: ClassVar[bool] = False


class UseError(FanfoldError):
    """Raised when the caller asked for something that cannot be done as asked."""

    exit_code = 2
    http_status = 400


class ConfigurationError(UseError):
    """Raised when a setting is unknown, missing or of the wrong type."""


class InvalidInput(UseError):
    """Raised when a value breaks a rule that the message states."""

    http_status = 422


class Unauthenticated(UseError):
    """Raised when a request has no bearer token and needs one, or one that is not valid."""

    http_status = 401


class NotFound(UseError):
    """Raised when a user, tweet or file does not exist."""

    http_status = 404


class Forbidden(UseError):
    """Raised when the acting user, or his token, may not do this."""

    http_status = 403


class Conflict(UseError):
    """Raised when something else has the name or the id."""

    http_status = 409


class KeyReused(Conflict):
    """Raised when an idempotency key comes again with another request."""


class LeaseHeld(Conflict):
    """Raised when another process holds the lease of a job that is done by one at a time."""


class CheckFailed(FanfoldError):
    """Raised when a check ran to its end and found differences."""


class Undecodable(FanfoldError):
    """Raised when a message cannot be read; it goes to the dead letters."""


class Fenced(FanfoldError):
    """Raised when a Redis node refuses a write: no incarnation, another epoch, or an old call.

    Retriable with the current shard map and a new call number.
    """

    retriable = True


class RedisRefused(FanfoldError):
    """Raised when a Redis node answers a command with an error that trying again does not mend."""


class Superseded(FanfoldError):
    """Raised when Kafka or a Redis node refuses a worker because a newer one has its partition."""


class TokenLost(FanfoldError):
    """Raised when a timeline's token was replaced under a rebuild; the rebuild starts again."""

    retriable = True


class LeaseLost(FanfoldError):
    """Raised when a job's lease is gone, or was not confirmed for so long that another process may hold it."""

    exit_code = 3
    retriable = True


class PositionLost(FanfoldError):
    """Raised when a log no longer has the offset that reading goes on from: its retention is over, or it is another."""


class Closed(FanfoldError):
    """Raised when something is used after its `close`."""

    http_status = 503


class Overloaded(FanfoldError):
    """Raised when what was written before waits for too long; the message is for the caller."""

    http_status = 503
    retriable = True


class ClockWentBack(FanfoldError):
    """Raised when the clock stepped back further than is waited for; ids go on once it has caught up."""

    http_status = 503
    retriable = True


class DependencyError(FanfoldError):
    """Raised when a server that Fanfold depends on cannot be reached."""

    exit_code = 3
    http_status = 503
    retriable = True


class DatabaseUnavailable(DependencyError):
    """Raised when PostgreSQL does not answer."""


class AuthorBusy(DatabaseUnavailable):
    """Raised when another transaction holds a user's lock, as that of a frozen publisher does for five seconds."""


class KafkaUnavailable(DependencyError):
    """Raised when no Kafka broker answers."""


class RedisUnavailable(DependencyError):
    """Raised when a Redis node does not answer in time."""


class RedisAddressWrong(RedisUnavailable):
    """Raised when what answers at a node's address speaks another language, or refuses user or password."""


class RedisFull(RedisUnavailable):
    """Raised when a Redis node has reached its `maxmemory` and finds nothing that it may drop."""


class ZooKeeperUnavailable(DependencyError):
    """Raised when ZooKeeper does not answer."""


class StackError(DependencyError):
    """Raised when the embedded stack cannot start, or is needed and not running."""

    retriable = False
