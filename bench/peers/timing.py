"""Times on the GPU as cuda_bench takes them: events round many calls, the median of several rounds, rotating operands."""

import statistics

import torch

ROUND_SECONDS = 4e-3
LEAST_ROUNDS = 7
SHORT = 400e-6  # seconds of a call that is replayed in a graph: Python's part of it would be timed


def between(before, body):
    """Seconds of body() on the GPU; before() keeps the card busy while the host catches up."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before()
    start.record()
    body()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) * 1e-3


def captured(several, count):
    """The replay of a graph of count calls; None where they cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            several(count)
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    graph.replay()
    return graph.replay


def median_seconds(calls):
    """calls: functions that do the same on different operands, more than the L2 cache holds together."""

    def several(count):
        for i in range(count):
            calls[i % len(calls)]()

    several(2 * len(calls))
    torch.cuda.synchronize()
    first = between(calls[0], lambda: several(len(calls))) / len(calls)
    count = max(1, min(256, int(ROUND_SECONDS / first)))
    before, run = calls[0], lambda: several(count)
    if first < SHORT:
        whole = max(len(calls), count // len(calls) * len(calls))
        replay = captured(several, whole)
        if replay:
            before, run, count = replay, replay, whole
    return statistics.median(between(before, run) / count for _ in range(LEAST_ROUNDS))


def sets_for(bytes_of_one, least=3, most=64, memory=24e9):
    """How many sets of operands rotate: at least three, together past twice an L2 cache of 50 MB, within memory."""
    wanted = max(least, min(most, int(2 * 50e6 / bytes_of_one) + 2))
    return max(1, min(wanted, int(memory / bytes_of_one)))
