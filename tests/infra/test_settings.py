import re
from pathlib import Path

import pytest

from infra.errors import ConfigurationError, StackError
from infra.settings import load_settings


def test_the_environment_stands_above_what_a_running_stack_left(tmp_path: Path) -> None:
    (tmp_path / "stack.env").write_text("FANFOLD_KAFKA_BOOTSTRAP=127.0.0.1:1\nFANFOLD_API_PORT=2\n")

    settings = load_settings({"FANFOLD_API_PORT": "3"}, tmp_path)

    assert (settings.kafka_bootstrap, settings.api_port) == ("127.0.0.1:1", 3)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("FANFOLD_API_PRT", "1", "FANFOLD_API_PRT is not a setting"),
        ("FANFOLD_API_PORT", "http", "FANFOLD_API_PORT is 'http', but must be a whole number from 0 to 65535"),
        ("FANFOLD_API_PORT", "70000", "whole number from 0 to 65535"),
        ("FANFOLD_LOG_LEVEL", "loud", "FANFOLD_LOG_LEVEL is 'loud', but must be one of debug, info, warn, error"),
        ("FANFOLD_DATABASE_URL", "mysql://x", "must be a URL that begins with postgresql://"),
        ("FANFOLD_KAFKA_BOOTSTRAP", "localhost", "must be host:port pairs"),
        ("FANFOLD_REDIS_NODES", "127.0.0.1:7001", "must be name=redis://host:port pairs"),
        ("FANFOLD_REDIS_NODES", "a1=redis://h:1,a1=redis://h:2", "a1 stands there twice"),
        ("FANFOLD_NODES_AT_ONCE", "-1", "is '-1', but must be a whole number from 0 to 9999"),
        ("FANFOLD_NODES_AT_ONCE", "two", "a whole number from 0 to 9999"),
        ("FANFOLD_DEAD_LETTER_SHARE_MAX", "1%", "is '1%', but must be a share from 0 to 1, such as 0.01"),
        ("FANFOLD_DEAD_LETTER_SHARE_MAX", "1.01", "is '1.01', but must be a share from 0 to 1"),
        ("FANFOLD_DEAD_LETTER_SHARE_MAX", "-0.1", "a share from 0 to 1"),
        ("FANFOLD_DEAD_LETTER_SHARE_MAX", "nan", "a share from 0 to 1"),
        ("FANFOLD_RATE_LIMIT_WITHOUT_REDIS", "ajar", "is 'ajar', but must be one of open, closed"),
        ("FANFOLD_API_TRUSTED_PROXIES", "*", "is '*', but must be addresses or networks, separated by commas"),
        ("FANFOLD_API_TRUSTED_PROXIES", "10.0.0.7,proxy", "must be addresses or networks"),
        ("FANFOLD_API_TRUSTED_PROXIES", "10.0.0.7/8", "must be addresses or networks"),
        ("FANFOLD_DATABASE_URL", "mysql://me:hush@h/d", "is 'mysql://me:***@h/d', but must be a URL"),
        ("FANFOLD_TEST_SERVICES", "podman", "must be one of embedded, docker"),
    ],
)
def test_a_bad_setting_is_one_sentence_with_key_value_and_rule(
    tmp_path: Path, key: str, value: str, sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        load_settings({key: value}, tmp_path)


def test_other_variables_are_none_of_our_business(tmp_path: Path) -> None:
    load_settings({"FANFOLDER": "1", "PATH": "/bin"}, tmp_path)


def test_a_missing_address_says_how_to_provide_it(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"FANFOLD_DATABASE_URL is not set .* `fanfold up`"):
        load_settings({}, tmp_path).need("database_url")
