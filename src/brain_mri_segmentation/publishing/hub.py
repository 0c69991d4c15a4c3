"""Pushing an exported folder to a Hugging Face hub."""

from pathlib import Path

import httpx2
from huggingface_hub import HfApi

from brain_mri_segmentation.errors import InputError


def push(
    folder: Path, repo_id: str, private: bool, revision: str, message: str, api: HfApi
) -> dict[str, str]:
    """Make a branch of a repository equal to a folder.

    Files that the hub has already are not sent again, so that a push that was cut off goes on when
    it is repeated, and one with nothing new makes no commit.

    Args:
        folder: What ``export`` wrote.
        repo_id: Repository; made when it is missing.
        private: Whether it is private.
        revision: Branch; made when it is missing.
        message: Of the commit.
        api: Client of the hub, which knows address and token.

    Returns:
        ``repo_id``, ``revision``, ``commit`` and ``url``.

    Raises:
        InputError: The hub refuses or cannot be reached, or the repository is public where it
            should be private, or the other way round.
    """
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if bool(api.repo_info(repo_id).private) != private:
            raise InputError(
                f"{repo_id} is {'public' if private else 'private'} on the hub, but "
                f"publishing.private={str(private).lower()}. Change one of them."
            )
        if revision != "main":
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns="*",  # what an earlier export left and this one does not hold
        )
    # The client raises RuntimeError for what happens in its threads.
    except (httpx2.HTTPError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The push to {repo_id} on {api.endpoint} failed: {reason.rstrip('.')}. It needs a "
            "token that may write there: HF_TOKEN in the environment, or 'hf auth login'. After a "
            "broken connection, run it again: it goes on."
        ) from error
    return {
        "repo_id": repo_id,
        "revision": revision,
        "commit": commit.oid,
        "url": commit.commit_url,
    }
