"""Errors of the Hugging Face hub's client, mapped to the caller's own type; the one place that names httpx2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import (
    DryRunError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from wan_ui.errors import WanUIError
from wan_ui.text import one_line

TOKEN = "HF_TOKEN"
NO_ANSWER = "The Hugging Face hub does not answer. Try again once it can be reached."


@contextmanager
def hub_errors(
    failure: Callable[[str], WanUIError],
    repo: str,
    file: str = "",
    revision: str | None = None,
    offline: str = NO_ANSWER,
) -> Iterator[None]:
    """Raises `failure(message)` for what the hub's client raises about a repository, and a file of it.

    The message names neither the address nor the token that the hub was asked with. `offline` is the message where the
    hub cannot be reached. An OSError of this machine (a full disk) passes through.
    """
    try:
        yield
    except GatedRepoError as error:
        raise failure(f"{repo} is gated on the Hugging Face hub: accept its terms there and set {TOKEN}.") from error
    except RevisionNotFoundError as error:
        raise failure(f"{repo} has no revision {revision} on the Hugging Face hub.") from error
    except RepositoryNotFoundError as error:
        raise failure(f"The Hugging Face hub has no public {repo}; set {TOKEN} if it is private.") from error
    except LocalEntryNotFoundError as error:
        raise failure(offline) from error
    except EntryNotFoundError as error:
        raise failure(f"{repo} on the Hugging Face hub has no file {one_line(file, 120)}.") from error
    except HFValidationError as error:
        raise failure(f"Invalid Hugging Face repository name: {repo}.") from error
    except (HfHubHTTPError, httpx2.HTTPError, DryRunError, ConnectionError, TimeoutError) as error:
        raise failure(offline) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise failure(
            f"The download of {one_line(file or repo, 120)} from the Hugging Face hub was cut off."
        ) from error
