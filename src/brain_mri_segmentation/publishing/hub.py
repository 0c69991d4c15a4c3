"""Pushing an exported folder to a Hugging Face hub."""

import json
import logging
import re
import time
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import RUN_FILE

logger = logging.getLogger(__name__)

_PASSING = (408, 429)  # refusals that are about the moment, like all of 500 and above


def push(
    folder: Path,
    api: HfApi,
    repo_id: str,
    private: bool,
    revision: str,
    attempts: int = 4,
    pause: float = 2,
) -> dict[str, object]:
    """Push a folder in one commit, and tag it as the next release: v1, v2 and so on.

    The commit makes the branch equal to the folder. Without a difference there is no commit, and
    no tag unless an attempt before was cut off ahead of it. So all of it can be repeated, and is
    when the connection breaks.

    Args:
        folder: What ``export`` wrote.
        api: Client of the hub; it holds the token.
        repo_id: Repository; made when it is missing.
        private: Whether it is private.
        revision: Branch; made when it is missing.
        attempts: How often a broken connection is tried.
        pause: Seconds before the second attempt; twice as many before each further one.

    Returns:
        ``repo_id``, ``revision``, ``commit``, ``tag``, ``url``, and ``changed``: whether there was
        anything new.

    Raises:
        InputError: The hub refuses, such as for a wrong token; the connection stays broken; or the
            repository is public where it should be private, or the other way round.
    """
    for attempt in range(1, attempts + 1):
        try:
            return _push_once(folder, api, repo_id, private, revision)
        # The client wraps what happens in its threads in RuntimeError.
        except (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError) as error:
            if refusal := _refusal(error):
                raise InputError(
                    f"The hub {api.endpoint} refuses {repo_id} ({refusal}). It needs a token that "
                    "may write there: huggingface: {token: ...} in conf/local/credentials.yml, or "
                    "HF_TOKEN in the environment."
                ) from error
            if attempt == attempts:
                raise InputError(
                    f"The push to {api.endpoint} broke off in each of {attempts} attempts "
                    f"({_first_line(error)}). Nothing is half published: run it again."
                ) from error
            wait = pause * 2 ** (attempt - 1)
            logger.warning("The hub: %s. Trying again in %g s.", _first_line(error), wait)
            time.sleep(wait)
    raise AssertionError("the loop returns or raises")


def _push_once(
    folder: Path, api: HfApi, repo_id: str, private: bool, revision: str
) -> dict[str, object]:
    api.create_repo(repo_id, private=private, exist_ok=True)
    if bool(api.repo_info(repo_id).private) != private:
        raise InputError(
            f"{repo_id} is {'public' if private else 'private'} on the hub, but "
            f"publishing.private={str(private).lower()}. Change one of them."
        )
    if revision != "main":
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    before = api.repo_info(repo_id, revision=revision).sha
    run = json.loads((folder / RUN_FILE).read_text())
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    # What an earlier export left and this one does not hold goes; the hub's own settings stay.
    stale = set(api.list_repo_files(repo_id, revision=revision)) - files.keys() - {".gitattributes"}
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(name, path) for name, path in files.items()),
        *(CommitOperationDelete(name) for name in sorted(stale)),
    ]
    # Unlike upload_folder, which may make several commits of a large folder, this makes one; it
    # leaves out files that the hub has, and makes none when nothing is left.
    commit = api.create_commit(
        repo_id,
        operations,
        revision=revision,
        commit_message=f"Publish {run['model_name']} {run['digest']}",
    )
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo_id).tags}
    tag = next((name for name, target in tags.items() if target == commit.oid), None)
    if tag is None:
        numbers = [int(name[1:]) for name in tags if re.fullmatch(r"v\d+", name)]
        tag = f"v{max(numbers, default=0) + 1}"
        api.create_tag(repo_id, tag=tag, revision=commit.oid)
    changed = commit.oid != before
    logger.info(
        "%s %s as %s", "Published" if changed else "Nothing new to publish:", commit.commit_url, tag
    )
    return {
        "repo_id": repo_id,
        "revision": revision,
        "commit": commit.oid,
        "tag": tag,
        "url": commit.commit_url,
        "changed": changed,
    }


def _refusal(error: BaseException | None) -> str | None:
    """Return the hub's answer if it will be the same again."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            if status < 500 and status not in _PASSING:
                reason = error.server_message or error.response.reason_phrase
                return f"{status}: {reason.rstrip('.')}"
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
