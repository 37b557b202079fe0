"""Plugs a disk in and out by QEMU's client library: qmp_client.py SOCKET IMAGE."""

import asyncio
import sys

from qemu.qmp import ExecuteError, QMPClient


async def main(socket, image):
    client = QMPClient("test")
    await client.connect(socket)
    status = await client.execute("query-status")
    assert status["running"], status
    names = [command["name"] for command in await client.execute("query-commands")]
    assert "device_add" in names and "qmp_capabilities" in names, names
    try:
        await client.execute("device_del", {"id": "missing"})
        raise AssertionError("what is not there was removed")
    except ExecuteError as error:
        assert error.error_class == "DeviceNotFound", error

    with client.listener("DEVICE_DELETED") as deleted:
        await client.execute("blockdev-add", {
            "node-name": "n", "driver": "raw",
            "file": {"driver": "file", "filename": image},
        })
        await client.execute("device_add", {
            "driver": "virtio-blk-pci", "id": "d", "drive": "n",
        })
        await client.execute("device_del", {"id": "d"})
        event = await asyncio.wait_for(deleted.get(), 60)
        assert event["data"]["device"] == "d", event
    with client.listener("SHUTDOWN") as ended:
        await client.execute("quit")
        event = await asyncio.wait_for(ended.get(), 60)
        assert event["data"]["reason"] == "host-qmp-quit", event
    try:
        await client.disconnect()
    except EOFError:
        pass


asyncio.run(main(sys.argv[1], sys.argv[2]))
