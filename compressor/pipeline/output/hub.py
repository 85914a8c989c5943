"""Upload a finished folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from compressor.errors import UserError
from compressor.pipeline.output.published import published
from compressor.utils.logging import one_line


def check_push(name: str) -> None:
    """Refuse an unusable name or account; send nothing.

    Raises:
        UserError: an invalid name, or nobody is logged in.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push-to-hub: {name!r} is no name of a repository: {one_line(error)}") from None
    if get_token() is None:
        raise UserError("--push-to-hub: nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN")


def push(folder: str | Path, name: str, *, paths: bool = False) -> str:
    """Upload a folder, without samples of the data, to a model repository, created if missing; its address.

    Args:
        name: such as user/student.
        paths: keep local paths in its documents.

    Raises:
        UserError: the upload failed.
    """
    api = HfApi()
    try:
        with published(folder, paths=paths) as source:
            address = api.create_repo(name, repo_type="model", exist_ok=True)
            api.upload_folder(
                repo_id=str(getattr(address, "repo_id", name)),
                folder_path=str(source),
                repo_type="model",
                commit_message="A student made by compressor",
            )
    # The network and the Hub fail in as many ways as there are layers below.
    except Exception as error:
        raise UserError(f"{folder} was written, but not pushed to {name}: {one_line(error)}") from error
    return str(address)
