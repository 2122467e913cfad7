"""Long-lived processes that run tests' functions, each as one gloo rank: torch loads only once."""

import os
import socket
import sys
import traceback

import torch
import torch.multiprocessing as multiprocessing

from fastmoco.system.torchrun import join, leave

SECONDS = 120  # limit of one job, on a busy machine


def serve(rank, size, pipe):
    """Take (function, arguments, port); answer the result of function(ranks, *arguments)."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
    }
    while (job := pipe.recv()) is not None:
        function, arguments, os.environ["MASTER_PORT"] = job
        try:
            answer = function(join(), *arguments)
        except BaseException as error:
            if not isinstance(error, SystemExit):
                traceback.print_exc(file=sys.stderr)
            answer = error
        leave()
        pipe.send(answer)


class Gloo:
    """A group of processes; run() returns the answer (or the exception) of each."""

    def __init__(self, size):
        spawn = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(size):
            ours, theirs = spawn.Pipe()
            self.processes.append(spawn.Process(target=serve, args=(rank, size, theirs)))
            self.processes[-1].start()
            self.pipes.append(ours)

    def run(self, function, *arguments):
        port = str(free_port())
        for pipe in self.pipes:
            pipe.send((function, arguments, port))
        for pipe in self.pipes:
            assert pipe.poll(SECONDS), "the ranks wait for each other"
        return [pipe.recv() for pipe in self.pipes]

    def close(self):
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join(60)
            process.kill()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
