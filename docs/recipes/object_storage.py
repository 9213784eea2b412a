"""A run folder to object storage and back, by fsspec: what was fetched goes on bit for bit.

    uv run --with s3fs python docs/recipes/object_storage.py runs/b s3://bucket/runs/b
    uv run --with s3fs python docs/recipes/object_storage.py s3://bucket/runs/b runs/b
    uv run bmg train --resume runs/b

Once the run has ended or was stopped: while it trains, checkpoints come and go. s3fs is for S3 and
what speaks like it, gcsfs for Google's, adlfs for Azure's; fsspec itself comes with bmg.
"""

import sys
from pathlib import Path

from fsspec.generic import rsync


def copy(source: str, destination: str) -> None:
    """Makes a folder what another is; each is a path here or a URL. What is equal is not sent."""
    urls = [x if "://" in x else Path(x).absolute().as_uri() for x in (source, destination)]
    rsync(*urls, delete_missing=True)


if __name__ == "__main__":
    copy(*sys.argv[1:])
