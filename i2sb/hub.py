"""Bridges of the Hugging Face hub, fetched by huggingface_hub (the extra `hub`) into its own cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

from i2sb import export
from i2sb.errors import UserError, one_line

NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def fetch(name: str) -> Path:
    """The exported weights of the repository ORG/NAME; nothing else of it is fetched.

    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE count, as huggingface_hub documents them.

    Raises:
        UserError: the extra is not installed, there is no network, no such repository, or none with such weights.
    """
    nowhere = f"{name}: is neither in results/, nor a path, nor a demo model"
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        how = "pip install huggingface_hub"
        raise UserError(f"{nowhere}; to fetch it from the Hugging Face hub: {how} (the extra hub)") from error
    try:
        return Path(hf_hub_download(name, export.WEIGHTS, endpoint=os.environ.get("HF_ENDPOINT")))
    except Exception as error:  # of several libraries
        reason = one_line(error, 300)
        raise UserError(f"{nowhere}, and no {export.WEIGHTS} came from the Hugging Face hub: {reason}") from error
