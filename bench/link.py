"""A slow line to a server: `python -m bench.link ADDRESS MBIT MS` prints the port at which it is reached by way of it.

What comes is let through towards either side at MBIT million bits a second, and MS milliseconds later.
"""

import asyncio
import sys
import time


async def main(address: str, bytes_a_second: float, delay_s: float) -> None:
    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        on_the_way = asyncio.Queue[tuple[float, bytes]]()

        async def arrive() -> None:
            while True:
                due, data = await on_the_way.get()
                await asyncio.sleep(due - time.monotonic())
                target.write(data)

        async with asyncio.TaskGroup() as group:
            arriving = group.create_task(arrive())
            free = 0.0
            while data := await source.read(1 << 14):
                free = max(free, time.monotonic()) + len(data) / bytes_a_second
                on_the_way.put_nowait((free + delay_s, data))
            arriving.cancel()

    async def relay(near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        host, port = address.rsplit(":", 1)
        far, to_far = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(carry(near, to_far), carry(far, to_near))
        finally:
            to_far.close()
            to_near.close()

    server = await asyncio.start_server(relay, "127.0.0.1")
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]) * 1e6 / 8, float(sys.argv[3]) / 1000))
