"""Places to store in: a folder, memory, and an S3 of moto's server on this machine."""

import logging
import uuid

import pytest

from kdrepro.store import places

KINDS = ("folder", "memory", "s3")


@pytest.fixture(scope="session")
def s3():
    """Makes a bucket and gives its address; this process, and those that it starts, find the server."""
    server = pytest.importorskip("moto.server", reason="moto's server is not installed")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "of-a-test",
            "AWS_SECRET_ACCESS_KEY": "of-a-test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "no_proxy": "*",
        }.items():
            patch.setenv(name, value)

        def bucket() -> str:
            name = f"bucket-{uuid.uuid4().hex[:12]}"
            boto3.client("s3").create_bucket(Bucket=name)
            return f"s3://{name}/store"

        yield bucket
    running.stop()


@pytest.fixture
def address_of(tmp_path, request):
    """Makes an address of a kind that nothing lies at yet."""

    def made(kind: str):
        if kind == "folder":
            return tmp_path / uuid.uuid4().hex
        pytest.importorskip("fsspec")
        return request.getfixturevalue("s3")() if kind == "s3" else f"memory://{uuid.uuid4().hex}/store"

    return made


@pytest.fixture(params=KINDS)
def address(request, address_of):
    return address_of(request.param)


@pytest.fixture
def place(address) -> places.Place:
    return places.place(address)
