"""The range of ids of users and tweets."""

ID_MAX = (1 << 63) - 1  # PostgreSQL's bigint
