import docker
import pytest
from docker.errors import DockerException

from infra.errors import StackError
from tests.docker_services import need_docker


def test_without_a_docker_engine_the_choice_fails_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_env() -> None:
        raise DockerException("connection refused")

    monkeypatch.setattr(docker, "from_env", from_env)

    with pytest.raises(StackError, match=r"no Docker engine answers \(connection refused\): start one, or unset"):
        need_docker()
