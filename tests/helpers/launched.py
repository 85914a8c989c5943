"""Processes that know each other as those of a launcher do."""

import multiprocessing
import os
import socket
import traceback


def together(work, count=2):
    """Run `work(rank)` in processes that know each other as torchrun's do; forked, so that nothing is imported anew."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def child(rank):
        from accelerate.state import AcceleratorState

        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **{k: str(v) for k, v in names.items()}}
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            work(rank)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    children = [multiprocessing.get_context("fork").Process(target=child, args=(rank,)) for rank in range(count)]
    for one in children:
        one.start()
    for one in children:
        one.join(120)
        assert one.exitcode == 0
