"""The Java parts: resolved by jgo, pinned with checksums in jgo.lock.toml, kept in the local Maven cache.

`python -m infra.stack.jars` (make setup) fetches what is missing; `class_path` only reads, without the network;
`write_lock` (make lock) resolves jgo.toml anew.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import requests
from jgo.config import GlobalSettings
from jgo.env import EnvironmentBuilder, EnvironmentSpec, LockedDependency, LockFile, compute_spec_hash
from jgo.maven import Artifact, MavenContext

from infra.cli import say
from infra.errors import FanfoldError, StackError

SPEC = Path(__file__).with_name("jgo.toml")
LOCK = Path(__file__).with_name("jgo.lock.toml")

FETCHES_AT_ONCE = 4  # small files, one repository: more connections gain nothing and look like an attack
FETCH_TRIES = 3  # a transfer that broke off leaves a short file, which the checksum finds
TIMEOUT_S = 30  # without a byte from the repository
RUNTIME_SCOPES = ("compile", "runtime")
PROGRESS_AFTER_S = 2.0


def class_path(lock: Path = LOCK) -> list[Path]:
    """The jars that Kafka and ZooKeeper both run on; `StackError` when one is not there. Never asks the network."""
    paths = [_path(artifact) for _, artifact in _locked_artifacts(lock, _maven(offline=True))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise StackError(f"{len(missing)} of {len(paths)} jars are missing ({missing[0]}, …): run `make setup`")
    return paths


def fetch_missing(lock: Path = LOCK, report: Callable[[str], None] = say) -> int:
    """Fetches the jars that are missing or damaged, checks every checksum, and returns how many were fetched."""
    started_s = shown_s = time.monotonic()
    artifacts = list(_locked_artifacts(lock, _maven(offline=False)))
    fetched = 0
    with ThreadPoolExecutor(FETCHES_AT_ONCE) as pool:
        for done, was_fetched in enumerate(pool.map(lambda pair: _ensure(*pair), artifacts), start=1):
            fetched += was_fetched
            now_s = time.monotonic()
            if now_s - started_s > PROGRESS_AFTER_S and (now_s - shown_s > 1 or done == len(artifacts)):
                report(f"jars: {done} of {len(artifacts)} are here")
                shown_s = now_s
    return fetched


def write_lock(spec: Path = SPEC, lock: Path = LOCK) -> int:
    """Resolves the spec anew and writes every jar's version and checksum; returns how many jars it named."""
    maven = _maven(offline=False)
    chosen = EnvironmentSpec.load(spec)
    inputs, transitive = maven.resolver.resolve(EnvironmentBuilder(context=maven).spec_to_dependencies(chosen))
    wanted = [*inputs, *(dep for dep in transitive if dep.scope in RUNTIME_SCOPES and not dep.optional)]
    wanted.sort(key=lambda dep: (dep.groupId, dep.artifactId, dep.classifier))
    locked = [LockedDependency.from_dependency(dep) for dep in wanted]
    LockFile(locked, environment_name=chosen.name, spec_hash=compute_spec_hash(spec)).save(lock)
    return len(locked)


def _ensure(locked: LockedDependency, artifact: Artifact) -> bool:
    """Whether this jar had to be fetched; afterwards it is there and its checksum is right."""
    path, name = _path(artifact), f"{locked.artifactId}:{locked.version}"
    reason = ""
    for attempt in range(FETCH_TRIES + 1):
        if path.is_file() and sha256(path.read_bytes()).hexdigest() == locked.sha256:
            return attempt > 0
        if path.is_file():
            reason = f"its checksum is not the one in {LOCK.name}"
            path.unlink()
        if attempt < FETCH_TRIES:
            try:
                artifact.resolve()
            except (RuntimeError, requests.RequestException) as error:
                reason = str(error)
    raise StackError(f"{name} could not be fetched in {FETCH_TRIES} tries: {reason}")


def _locked_artifacts(lock: Path, maven: MavenContext) -> Iterator[tuple[LockedDependency, Artifact]]:
    for locked in LockFile.load(lock).dependencies:
        component = maven.project(locked.groupId, locked.artifactId).at_version(locked.version)
        yield locked, component.artifact(locked.classifier or "", locked.packaging)


def _maven(*, offline: bool) -> MavenContext:
    """The local cache and the repositories as the person's jgo configuration has them; else jgo's defaults."""
    config = GlobalSettings.load()
    return MavenContext(
        repo_cache=config.repo_cache, remote_repos=config.repositories or None, timeout=TIMEOUT_S, offline=offline
    )


def _path(artifact: Artifact) -> Path:
    path = artifact.cached_path
    assert path is not None
    return Path(path)


def main(_arguments: Sequence[str] = ()) -> int:
    """Fetches what is missing and says so."""
    try:
        fetched = fetch_missing()
    except FanfoldError as error:
        say(f"fanfold: {error}")
        return error.exit_code
    say(f"jars: fetched {fetched}" if fetched else "jars: all here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
