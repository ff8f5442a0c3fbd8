"""Best of n: three fixes are tried in forks, side by side; one whose tests pass stays."""

from concurrent.futures import ThreadPoolExecutor

from mulligan import Vm

PROGRAM = """
def median(values):
    values = sorted(values)
    return values[len(values) // 2]
"""
TESTS = """
from median import median

assert median([3, 1, 2]) == 2, "odd"
assert median([4, 1, 3, 2]) == 2.5, "even"
assert median([1, 1, 10]) == 1, "outlier"
"""
FIXES = {  # as three samples of one model would have them
    "lower middle": "values[(len(values) - 1) // 2]",
    "mean of all": "sum(values) / len(values)",
    "mean of the middle": "(values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2",
}


def write(vm: Vm, program: str) -> None:
    vm.run(f"open('median.py', 'w').write({program!r})")


def complaint(vm: Vm) -> str:
    """What its tests say of the program; nothing if they pass."""
    tested = vm.run(TESTS, timeout_seconds=10)
    return (tested.error or tested.stderr).strip().rpartition("\n")[2]


def attempt(fork: Vm, expression: str) -> str:
    write(fork, PROGRAM.replace("values[len(values) // 2]", expression))
    return complaint(fork)


if __name__ == "__main__":
    with Vm("best-of-n") as vm:
        write(vm, PROGRAM)
        print("before:", complaint(vm))

        forks = vm.fork(len(FIXES))
        with ThreadPoolExecutor() as pool:
            complaints = list(pool.map(attempt, forks, FIXES.values()))

        best = None
        for name, fork, wrong in zip(FIXES, forks, complaints, strict=True):
            print(f"{name}: {wrong or 'passes'}")
            if best is None and not wrong:
                best = fork
            else:
                fork.delete()
        if best is not None:
            print(best.run("tail -n 1 median.py", "bash").stdout, end="")
