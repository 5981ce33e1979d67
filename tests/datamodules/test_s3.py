"""Shards in S3, served for real by moto's server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from datamodules.remote_index import open_index
from datamodules.shard_index import ShardIndex
from datamodules.shard_reader import ShardReader
from datamodules.shards import write_shards
from datamodules.storage import Storage
from datamodules.stream import ShardStream
from datamodules.tar_index import ShardError
from datamodules.transforms import ImageTransform
from tests.datamodules.make_samples import make_samples

ACCOUNT = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder of shards, and the address of a server that has the same in its bucket `shards`."""
    folder = tmp_path_factory.mktemp("s3") / "data"
    write_shards(make_samples(12), folder, 4)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **ACCOUNT)
        client.create_bucket(Bucket="shards")
        for path in folder.iterdir():
            client.upload_file(str(path), "shards", f"data/{path.name}")
        yield folder, f"http://{host}:{port}"
    finally:
        server.stop()


def _storage(address: str, **settings: object) -> Storage:
    options = {"key": "key", "secret": "secret", "client_kwargs": {"endpoint_url": address, "region_name": "us-east-1"}}
    return Storage(attempts=2, backoff_s=0.01, options=options, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("cached", [False, True], ids=["ranges", "cache"])
def test_a_bucket_gives_the_samples_and_the_order_of_local_files(
    bucket: tuple[Path, str], tmp_path: Path, cached: bool
) -> None:
    folder, address = bucket
    storage = _storage(address, cache_directory=str(tmp_path / "cache") if cached else None)
    local, remote = ShardIndex.load(folder), open_index("s3://shards/data", storage=storage)
    assert remote.fingerprint == local.fingerprint
    files = [{name: bytes(data) for name, data in ShardReader(index).read(2, 3).items()} for index in (local, remote)]
    assert files[0] == files[1]
    settings = {"global_batch_size": 4, "seed": 3, "transform": ImageTransform(16)}
    keys = [[batch["key"] for batch in ShardStream(index, **settings)] for index in (local, remote)]  # type: ignore[arg-type]
    assert keys[0] == keys[1] and len(keys[0]) == 3


def test_an_object_that_is_gone_is_a_fault_of_its_samples(bucket: tuple[Path, str]) -> None:
    _, address = bucket
    boto3.client("s3", endpoint_url=address, **ACCOUNT).copy_object(
        Bucket="shards", Key="less/index.json", CopySource="shards/data/index.json"
    )
    with pytest.raises(ShardError, match=r"s3://shards/nowhere/index\.json: there is no such file"):
        open_index("s3://shards/nowhere", storage=_storage(address))
    index = open_index("s3://shards/less", "s3://shards/data", _storage(address))
    stream = ShardStream(index, global_batch_size=1, seed=0, transform=ImageTransform(16), max_bad_fraction=1.0)
    with pytest.raises(ValueError, match=r"no good sample could be found"):
        list(stream)
    assert {reason for reason, _ in stream.fault_counts} == {"missing"}
